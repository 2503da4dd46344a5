"""The bench on which studies are broken: starts drivers, kills processes, compares results."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from tests.conftest import MINIMAL, ROOT
from tuning.ray_settings import SETTINGS
from tuning.record import TrialRecord, read_events, read_trials

TIMEOUT = 180


def study(trials: int = 6, epochs: int = 4, **changes: object) -> dict[str, object]:
    """A study of one slot, so that its order is that of an uninterrupted one."""
    return (
        MINIMAL
        | {
            "space": {"lr": {"loguniform": [0.005, 0.05]}},
            "fixed": {"epochs": epochs},
            "search": {"algorithm": "optuna", "trials": trials, "seed": 5, "max_concurrent": 1},
            "limits": {"free_disk_mib": 0},
        }
        | changes
    )


@contextmanager
def raised_ray() -> Iterator[str]:
    """Start Ray once for many drivers, which saves each some seconds; gives its address."""
    program = (
        "import ray, sys; ray.init(include_dashboard=False, log_to_driver=False); "
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | SETTINGS | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(60)


@dataclass
class Row:
    """One row of the fault matrix."""

    name: str
    repetitions: int = 0
    passed: int = 0
    repeated_epochs: int = 0
    recovery_seconds: list[float] = field(default_factory=list)


@dataclass
class Bench:
    """A place for one study, with a ledger of what its trials really did."""

    home: Path
    description: dict[str, object]
    epoch_seconds: float = 0.2
    checkpoint_mib: float = 4
    do: str = ""
    address: str | None = None
    logs: Path | None = None

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.ledger = self.home / "ledger.txt"
        self.ledger.touch()
        self.storage = self.home / "results"
        (self.home / "study.yaml").write_text(yaml.safe_dump(self.description))
        self.outputs = 0

    @property
    def folder(self) -> Path:
        return next(self.storage.iterdir())

    def run(self, *more: str) -> Session:
        return self._start("run", "study.yaml", "--storage", str(self.storage), *more)

    def resume(self, *more: str) -> Session:
        return self._start("resume", str(self.folder), *more)

    def _start(self, *arguments: str) -> Session:
        if self.address:
            arguments += ("--address", self.address)
        self.outputs += 1
        output = self.home / f"output-{self.outputs}.txt"
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "FAULTS_LEDGER": str(self.ledger),
            "FAULTS_EPOCH_SECONDS": str(self.epoch_seconds),
            "FAULTS_CHECKPOINT_MIB": str(self.checkpoint_mib),
            "FAULTS_DO": self.do,
            "FAULTS_LOGS": str(self.logs or ""),
            "RAY_AUTH_MODE": "disabled",
        }
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.driver", *arguments],
                cwd=self.home, env=environment, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return Session(process, output)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines()]

    def begun(self) -> int:
        return sum(line[2] == "begin" for line in self.lines())

    def repeated(self) -> int:
        """Epochs that were begun more than once, counted each time."""
        begun = Counter(
            (trial, epoch) for trial, epoch, what, *_ in self.lines() if what == "begin"
        )
        return sum(count - 1 for count in begun.values())

    def wait(self, condition: Callable[[], object], session: Session) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert not session.process.poll(), session.text()
            assert time.monotonic() < deadline, session.text()
            time.sleep(0.002)

    def wait_for_worker(self) -> None:
        """Wait until the process that trained last has ended."""
        deadline = time.monotonic() + TIMEOUT
        while psutil.pid_exists(int(self.lines()[-1][3])):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def trials(self) -> dict[str, TrialRecord]:
        return read_trials(self.folder)

    def summary(self) -> list[tuple[object, ...]]:
        """What has to be the same whatever happened: configurations and every report, in order."""
        return [
            (t.trial, t.status, sorted(t.config.items(), key=str),
             [(r["epoch"], r["val_accuracy"]) for r in t.reports])
            for t in self.trials().values()
        ]  # fmt: skip

    def ends(self) -> Counter[str]:
        return Counter(e["trial"] for e in read_events(self.folder) if e["event"] == "end")


@dataclass
class Session:
    """A driver in the background."""

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def finish(self, code: int = 0) -> str:
        """Wait for the end and return what was printed."""
        returned = self.process.wait(TIMEOUT)
        assert returned == code, f"exit code {returned}: {self.text()}"
        assert "Traceback" not in self.text()
        return self.text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_part(self, name: str) -> None:
        """Kill the `raylet` or `gcs_server` that this driver, and no other, has started."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.name() == name:
                child.kill()
                return
        raise AssertionError(f"the driver has no {name}")
