"""A small disk that fills up: at a checkpoint, at a write of state, and at a write of a log."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.faults.harness import TIMEOUT, Bench, study
from tuning.record import RECORD

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]


@contextmanager
def small_disk(place):
    """A disk of 48 MiB at a folder; it hides what the folder holds."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as place:
        yield place


def fill(place, leaving=0):
    """Fill a disk up to so many bytes."""
    with (place / "ballast").open("wb") as file:
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        file.write(b"\0" * (free - leaving))


def test_full_disk_at_a_checkpoint(tmp_path, disk, row, few_repetitions, address):
    """With room for small files, but not for a checkpoint."""
    for number in range(few_repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study(5, 4), 0.2, 4, address=address)
        bench.storage = disk / str(number)
        session = bench.run()
        bench.wait(lambda: bench.begun() >= 7, session)  # noqa: B023
        fill(disk, 1 << 20)
        before = paused(bench, session, disk)
        (disk / "ballast").unlink()
        go_on(bench, row, before)


def test_full_disk_at_a_line_of_the_record(tmp_path, disk, row, few_repetitions, address):
    """With the record alone on the full disk."""
    for number in range(few_repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study(14, 4), 0.1, 0.1, address=address)
        session = bench.run()
        bench.wait(lambda: bench.begun() >= 7, session)  # noqa: B023
        session.kill()
        record = bench.folder / RECORD
        shutil.move(record, disk / str(number))
        record.symlink_to(disk / str(number))
        begun, session = bench.begun(), bench.resume()
        bench.wait(lambda: bench.begun() > begun + 2, session)  # noqa: B023
        fill(disk)
        before = paused(bench, session, bench.folder)
        assert bench.resume().finish(2).strip().endswith("No space left on device")
        (disk / "ballast").unlink()
        go_on(bench, row, before)


def test_full_disk_at_a_log(tmp_path, disk, row, few_repetitions, address):
    """With TensorBoard's files alone on the full disk."""
    for number in range(few_repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study(5, 4), 0.2, 0.1, address=address)
        bench.logs = disk / str(number)
        session = bench.run()
        bench.wait(lambda: bench.begun() >= 7, session)  # noqa: B023
        fill(disk)
        before = paused(bench, session, disk)
        (disk / "ballast").unlink()
        go_on(bench, row, before)


def test_full_disk_at_a_write_of_tunes_state(tmp_path, row, few_repetitions, address):
    """Nothing of a study depends on that state, so it goes on, or pauses and can be resumed."""
    for number in range(few_repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study(8, 4), 0.2, 0.1, address=address)
        session = bench.run()
        bench.wait(lambda: bench.begun() >= 4, session)  # noqa: B023
        session.kill()
        before = {n: t.row() for n, t in bench.trials().items() if t.finished}
        with small_disk(bench.folder / "tune") as disk:
            begun, session = bench.begun(), bench.resume()
            bench.wait(lambda: bench.begun() > begun + 1, session)  # noqa: B023
            fill(disk)
            if session.process.wait(TIMEOUT) == 0:
                go_on(bench, row, before, end=False)
                continue
            assert "No space left on device" in session.finish(130)
            (disk / "ballast").unlink()
            go_on(bench, row, before)


def paused(bench, session, where):
    """Wait for the study's end on a full disk; return the rows of the trials that had ended."""
    text = session.finish(130)
    assert f"{where}/" in text
    assert "No space left on device; free some space; interrupted with" in text
    before = {n: t.row() for n, t in bench.trials().items() if t.finished}
    assert before
    return before


def go_on(bench, row, before, end=True):
    """Resume; nothing that had ended may be lost or different, and all ends once."""
    if end:
        begun, since = bench.begun(), time.monotonic()
        session = bench.resume()
        bench.wait(lambda: bench.begun() > begun, session)
        row.recovery_seconds.append(time.monotonic() - since)
        session.finish()
    after = bench.trials()
    assert {n: after[n].row() for n in before} == before
    assert {len(t.reports) for t in after.values()} == {4}
    assert len(after) == bench.description["search"]["trials"]
    assert set(bench.ends().values()) == {1}
    row.repeated_epochs += bench.repeated()
    row.passed += 1


def test_a_disk_that_is_nearly_full_is_refused_before_the_start(tmp_path, disk):
    bench = Bench(tmp_path / "bench", study() | {"limits": {"free_disk_mib": 100}})
    bench.storage = disk / "results"
    text = bench.run().finish(2)
    assert "MiB are free, limits.free_disk_mib wants 100; free some space" in text
    assert not bench.storage.exists()
