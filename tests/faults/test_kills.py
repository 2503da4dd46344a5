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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a study of so many trials comes to when nothing goes wrong."""
    known = {}

    def summary(trials: int) -> list[tuple[object, ...]]:
        if trials not in known:
            bench = Bench(tmp_path_factory.mktemp("undisturbed"), study(trials), 0.01, 0.1)
            bench.run().finish()
            assert bench.repeated() == 0
            known[trials] = bench.summary()
        return known[trials]

    return summary


def check(bench: Bench, row: Row, expected, kills: int) -> None:
    """The same trials and reports, each ended once; at most one epoch per kill was repeated."""
    assert bench.summary() == expected
    assert set(bench.ends().values()) == {1}
    assert bench.repeated() <= kills
    row.repeated_epochs += bench.repeated()
    row.passed += 1


def wait_for_epoch(bench: Bench, session: Session, count: int) -> None:
    bench.wait(lambda: bench.begun() >= count, session)


def recovered(bench: Bench, session: Session, row: Row, since: float) -> None:
    """Note the seconds until another epoch begins, or all proves to have been done."""
    before = bench.begun()
    bench.wait(lambda: bench.begun() > before or session.process.poll() == 0, session)
    row.recovery_seconds.append(time.monotonic() - since)


def worker(bench: Bench) -> int:
    return int(bench.lines()[-1][3])


def test_worker_in_mid_epoch(tmp_path, row, repetitions, undisturbed):
    generator = random.Random(1)
    expected = undisturbed(6)
    for number in range(repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study())
        session = bench.run()
        wait_for_epoch(bench, session, generator.randrange(2, 20))
        time.sleep(generator.uniform(0, 0.15))
        os.kill(worker(bench), signal.SIGKILL)
        recovered(bench, session, row, time.monotonic())
        session.finish()
        check(bench, row, expected, kills=1)


def test_worker_in_mid_checkpoint(tmp_path, row, repetitions, undisturbed):
    generator = random.Random(2)
    expected = undisturbed(6)
    for number in range(repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study(), 0.2, checkpoint_mib=128)
        session = bench.run()
        wait_for_epoch(bench, session, generator.randrange(2, 20))
        bench.wait(lambda: half_written(bench), session)  # noqa: B023
        os.kill(worker(bench), signal.SIGKILL)
        assert half_written(bench)
        recovered(bench, session, row, time.monotonic())
        session.finish()
        check(bench, row, expected, kills=1)
        assert not half_written(bench)


def half_written(bench: Bench) -> list[Path]:
    return list(bench.folder.glob("trials/*/checkpoint-*.tmp"))


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_ray_itself(tmp_path, row, repetitions, undisturbed, part):
    generator = random.Random(3)
    expected = undisturbed(6)
    for number in range(repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study())
        session = bench.run()
        wait_for_epoch(bench, session, generator.randrange(2, 20))
        time.sleep(generator.uniform(0, 0.3))
        session.kill_part(part)
        text = session.finish(130)
        assert f"was lost; finish the study with: tuning resume {bench.folder}" in text
        since = time.monotonic()
        session = bench.resume()
        recovered(bench, session, row, since)
        session.finish()
        check(bench, row, expected, kills=1)


def test_driver_at_random_moments(tmp_path, row, repetitions, undisturbed):
    """Every other kill waits for a state write and comes within a few milliseconds of it."""
    generator = random.Random(4)
    kills, number = 0, 0
    wanted = 2 if repetitions == 1 else repetitions
    while kills < wanted:
        bench = Bench(tmp_path / str(number), study(16), epoch_seconds=0.1)
        number += 1
        session, here = bench.run(), 0
        while kills < wanted and not dies(bench, session, generator, at_write=kills % 2 == 1):
            kills += 1
            here += 1
            row.repetitions += 1
            since = time.monotonic()
            session = bench.resume() if bench.storage.exists() else bench.run()
            recovered(bench, session, row, since)
        session.finish()
        check(bench, row, undisturbed(16), kills=here)
        row.passed += here - 1


def test_driver_with_two_slots(tmp_path, row, repetitions):
    """Each slot may repeat one epoch; a grid's trials do not depend on which ends first."""
    generator = random.Random(6)
    grid = {"space": {"lr": {"grid": [0.01, 0.02, 0.03, 0.04, 0.05]}},
            "search": {"max_concurrent": 2}, "resources": {"cpu": 0.5}}  # fmt: skip
    for number in range(repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study() | grid)
        session = bench.run()
        wait_for_epoch(bench, session, generator.randrange(3, 14))
        time.sleep(generator.uniform(0, 0.3))
        session.kill()
        since = time.monotonic()
        session = bench.resume()
        recovered(bench, session, row, since)
        session.finish()
        trials = bench.trials()
        assert [t.config["lr"] for t in trials.values()] == [0.01, 0.02, 0.03, 0.04, 0.05]
        assert [[r["epoch"] for r in t.reports] for t in trials.values()] == [[1, 2, 3, 4]] * 5
        assert set(bench.ends().values()) == {1}
        assert len(bench.ends()) == 5
        assert bench.repeated() <= 2
        row.repeated_epochs += bench.repeated()
        row.passed += 1


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
