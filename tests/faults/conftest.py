from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.harness import Bench, Row, raised_ray, study

ROWS = pytest.StashKey[dict[str, Row]]()
WIDTH = 70


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def driver_kills(request: pytest.FixtureRequest) -> int:
    """How often the driver is killed: `--faults N`; by default, in `make test`, twice."""
    return int(request.config.getoption("--faults")) or 2


@pytest.fixture
def repetitions(request: pytest.FixtureRequest) -> int:
    """How often the other rows are repeated: a quarter of that; by default once."""
    return max(1, int(request.config.getoption("--faults")) // 4)


@pytest.fixture
def few_repetitions(request: pytest.FixtureRequest) -> int:
    """How often a row is repeated whose every repetition needs drivers of its own: a tenth."""
    return max(1, int(request.config.getoption("--faults")) // 10)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row of the fault matrix that the test fills; printed at once, since all take long."""
    row = Row(request.node.name.removeprefix("test_").replace("_", " "))
    request.config.stash[ROWS][row.name] = row
    yield row
    plugins = request.config.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        plugins.get_plugin("terminalreporter").write_line(f" {line(row)}")


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A running Ray for studies that are not about its own processes."""
    with raised_ray() as address:
        yield address


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, address: str
) -> Callable[[int], list[tuple[object, ...]]]:
    """What the first trials of a study come to when nothing goes wrong."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), study(16), 0.01, 0.1, address=address)
    bench.run().finish()
    assert bench.repeated() == 0
    summary = bench.summary()
    return lambda trials: summary[:trials]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = config.stash[ROWS].values()
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("fault matrix")
    write(f"{'fault':{WIDTH}}  repetitions  passed  epochs lost  recovery s (median, most)")
    for row in rows:
        write(line(row))


def line(row: Row) -> str:
    """Return a row as it is printed."""
    times = sorted(row.recovery_seconds)
    recovery = f"{times[len(times) // 2]:.1f}, {times[-1]:.1f}" if times else "-"
    rate = f"{100 * row.passed / row.repetitions:.0f} %" if row.repetitions else "-"
    return (
        f"{row.name:{WIDTH}}  {row.repetitions:11}  {rate:>6}  {row.repeated_epochs:11}"
        f"  {recovery:>13}"
    )
