"""kill -9 of every process of a study: nothing is lost, and at most one epoch is repeated."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.harness import Bench, Row, Session, study

pytestmark = [pytest.mark.ray, pytest.mark.slow]


#: Kills of one study before a new one is begun.
PER_STUDY = 5


def studies(kills: int) -> list[tuple[int, int]]:
    """Spread kills over studies: how many each gets, and how many trials it needs for them."""
    counts = [PER_STUDY] * (kills // PER_STUDY)
    counts += [kills % PER_STUDY] if kills % PER_STUDY else []
    return [(count, 6 if count == 1 else 16) for count in counts]


def check(bench: Bench, row: Row, expected, kills: int) -> None:
    """The same trials and reports, each ended once; at most one epoch per kill was repeated."""
    assert bench.summary() == expected
    assert set(bench.ends().values()) == {1}
    assert bench.repeated() <= kills
    row.repeated_epochs += bench.repeated()
    row.passed += kills


def wait_for_epochs(bench: Bench, session: Session, count: int) -> None:
    """Wait until so many more epochs have begun."""
    wanted = bench.begun() + count
    bench.wait(lambda: bench.begun() >= wanted, session)


def recovered(bench: Bench, session: Session, row: Row, since: float) -> None:
    """Note the seconds until another epoch begins, or all proves to have been done."""
    before = bench.begun()
    bench.wait(lambda: bench.begun() > before or session.process.poll() == 0, session)
    row.recovery_seconds.append(time.monotonic() - since)


def worker(bench: Bench) -> int:
    return int(bench.lines()[-1][3])


def test_worker_in_mid_epoch(tmp_path, row, repetitions, undisturbed, address):
    generator = random.Random(1)
    for number, (kills, trials) in enumerate(studies(repetitions)):
        bench = Bench(tmp_path / str(number), study(trials, retries=kills), address=address)
        session = bench.run()
        for _ in range(kills):
            row.repetitions += 1
            wait_for_epochs(bench, session, generator.randrange(2, 10))
            time.sleep(generator.uniform(0, 0.15))
            os.kill(worker(bench), signal.SIGKILL)
            recovered(bench, session, row, time.monotonic())
        session.finish()
        check(bench, row, undisturbed(trials), kills)


def test_worker_in_mid_checkpoint(tmp_path, row, repetitions, undisturbed, address):
    generator = random.Random(2)
    for number, (kills, trials) in enumerate(studies(repetitions)):
        bench = Bench(tmp_path / str(number), study(trials, retries=kills), 0.2, 128,
                      address=address)  # fmt: skip
        session = bench.run()
        for _ in range(kills):
            row.repetitions += 1
            wait_for_epochs(bench, session, generator.randrange(2, 10))
            bench.wait(lambda: half_written(bench), session)  # noqa: B023
            os.kill(worker(bench), signal.SIGKILL)
            assert half_written(bench)
            recovered(bench, session, row, time.monotonic())
        session.finish()
        check(bench, row, undisturbed(trials), kills)
        assert not half_written(bench)


def half_written(bench: Bench) -> list[Path]:
    return list(bench.folder.glob("trials/*/checkpoint-*.tmp"))


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_ray_itself(tmp_path, row, repetitions, undisturbed, part):
    generator = random.Random(3)
    for number, (kills, trials) in enumerate(studies(repetitions)):
        bench = Bench(tmp_path / str(number), study(trials))
        session = bench.run()
        for _ in range(kills):
            row.repetitions += 1
            wait_for_epochs(bench, session, generator.randrange(2, 10))
            time.sleep(generator.uniform(0, 0.3))
            session.kill_part(part)
            text = session.finish(130)
            assert f"was lost; finish the study with: tuning resume {bench.folder}" in text
            since = time.monotonic()
            session = bench.resume()
            recovered(bench, session, row, since)
        session.finish()
        check(bench, row, undisturbed(trials), kills)


def test_driver_at_random_moments(tmp_path, row, driver_kills, undisturbed):
    """Every other kill waits for a state write and comes within a few milliseconds of it."""
    generator = random.Random(4)
    kills, number = 0, 0
    while kills < driver_kills:
        bench = Bench(tmp_path / str(number), study(16), epoch_seconds=0.1)
        number += 1
        session, here = bench.run(), 0
        while kills < driver_kills and not dies(bench, session, generator, at_write=kills % 2 == 1):
            kills += 1
            here += 1
            row.repetitions += 1
            since = time.monotonic()
            session = bench.resume() if bench.storage.exists() else bench.run()
            recovered(bench, session, row, since)
        session.finish()
        check(bench, row, undisturbed(16), here)


def test_driver_with_two_slots(tmp_path, row, repetitions):
    """Each slot may repeat one epoch; a grid's trials do not depend on which ends first."""
    generator = random.Random(6)
    for number, (kills, trials) in enumerate(studies(repetitions)):
        values = [n / 100 for n in range(1, trials)]
        grid = {"space": {"lr": {"grid": values}}, "resources": {"cpu": 0.5},
                "search": {"algorithm": "grid", "max_concurrent": 2}}  # fmt: skip
        bench = Bench(tmp_path / str(number), study() | grid)
        session = bench.run()
        for _ in range(kills):
            row.repetitions += 1
            wait_for_epochs(bench, session, generator.randrange(3, 9))
            time.sleep(generator.uniform(0, 0.3))
            session.kill()
            since = time.monotonic()
            session = bench.resume()
            recovered(bench, session, row, since)
        session.finish()
        found = bench.trials().values()
        assert [t.config["lr"] for t in found] == values
        assert [[r["epoch"] for r in t.reports] for t in found] == [[1, 2, 3, 4]] * len(values)
        assert list(bench.ends().values()) == [1] * len(values)
        assert bench.repeated() <= 2 * kills
        row.repeated_epochs += bench.repeated()
        row.passed += kills


def dies(bench: Bench, session: Session, generator: random.Random, *, at_write: bool) -> bool:
    """Kill a driver at a random moment of its work; tell whether it had come to its end before."""
    before, delay = bench.begun(), generator.uniform(0, 5)
    nth = generator.randrange(1, 60)
    bench.wait(lambda: bench.begun() > before or session.process.poll() == 0, session)
    if at_write:
        seen, state = 0, writes(bench)
        while seen < nth and session.process.poll() is None:
            if (now := writes(bench)) != state:
                seen, state = seen + 1, now
        time.sleep(generator.uniform(0, 0.003))
    else:
        time.sleep(delay)
    ended = session.process.poll() is not None
    if not ended:
        session.kill()
    return ended


def writes(bench: Bench) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of the study's state: record, tables, Tune's own."""
    found = []
    for path in [*bench.folder.glob("*"), *bench.folder.glob("tune/*/*")]:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, status.st_size, status.st_mtime_ns))
    return sorted(found)
