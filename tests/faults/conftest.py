from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import Row

ROWS = pytest.StashKey[dict[str, Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def repetitions(request: pytest.FixtureRequest) -> int:
    """How often each row of the matrix is repeated: `--faults N`, by default once."""
    return int(request.config.getoption("--faults"))


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row of the fault matrix that the test fills."""
    row = Row(request.node.name.removeprefix("test_").replace("_", " "))
    request.config.stash[ROWS][row.name] = row
    yield row


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = config.stash[ROWS].values()
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("fault matrix")
    width = max(len(row.name) for row in rows)
    write(f"{'fault':{width}}  repetitions  passed  epochs repeated  recovery s (median, most)")
    for row in rows:
        times = sorted(row.recovery_seconds)
        recovery = f"{times[len(times) // 2]:.1f}, {times[-1]:.1f}" if times else "-"
        rate = f"{100 * row.passed / row.repetitions:.0f} %" if row.repetitions else "-"
        write(
            f"{row.name:{width}}  {row.repetitions:11}  {rate:>6}  {row.repeated_epochs:15}"
            f"  {recovery:>13}"
        )
