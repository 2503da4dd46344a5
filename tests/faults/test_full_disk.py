"""A disk that fills up at a checkpoint, at a state write and at a log write (a small tmpfs)."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.faults.harness import Bench, study

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place, leaving):
    """Fill a disk up to so many bytes."""
    with (place / "ballast").open("wb") as file:
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        file.write(b"\0" * (free - leaving))


#: Free bytes that are left: too few for a checkpoint; for a line of the record or a log as well.
LEFT = {"checkpoint": 1 << 20, "state and log": 0}


@pytest.mark.parametrize("leaving", LEFT.values(), ids=list(LEFT))
def test_full_disk_at(tmp_path, disk, row, leaving):
    row.repetitions = 1
    mib = 4 if leaving else 0.001
    bench = Bench(tmp_path / "bench", study(5, 4), 0.2, checkpoint_mib=mib)
    bench.storage = disk / "results"
    session = bench.run()
    bench.wait(lambda: bench.begun() >= 7, session)
    fill(disk, leaving)
    text = session.finish(130)
    assert "No space left on device; free some space; interrupted with" in text
    before = {n: t.row() for n, t in bench.trials().items() if t.finished}
    assert before
    if leaving == 0:
        assert f"{bench.folder}" in (text := bench.resume().finish(2))
        assert text.strip().endswith("No space left on device")
    (disk / "ballast").unlink()
    since = time.monotonic()
    session = bench.resume()
    begun = bench.begun()
    bench.wait(lambda: bench.begun() > begun, session)
    row.recovery_seconds.append(time.monotonic() - since)
    session.finish()
    after = bench.trials()
    assert {n: after[n].row() for n in before} == before
    assert [len(t.reports) for t in after.values()] == [4] * 5
    assert set(bench.ends().values()) == {1}
    row.repeated_epochs, row.passed = bench.repeated(), 1


def test_a_disk_that_is_nearly_full_is_refused_before_the_start(tmp_path, disk):
    bench = Bench(tmp_path / "bench", study() | {"limits": {"free_disk_mib": 100}})
    bench.storage = disk / "results"
    text = bench.run().finish(2)
    assert "MiB are free, limits.free_disk_mib wants 100; free some space" in text
    assert not bench.storage.exists()
