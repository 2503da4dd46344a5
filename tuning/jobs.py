"""Jobs: studies that run on a cluster by themselves, sent through Ray's job submission API."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from tuning.environment import COMMIT_VARIABLE, git_commit
from tuning.study import Study

#: What stays at home, as in `.gitignore`: hosts have their own Python, and data on the storage.
EXCLUDED = ("/data/", "/results/", ".venv/", ".git/", "__pycache__/", ".*_cache/", "*.egg-info/")
#: The folder that all hosts share: `cluster.yaml` sets it for all that runs on the cluster.
STORAGE = '"$TUNING_STORAGE"'
STORAGE_IS_SET = ': "${TUNING_STORAGE:?is not set on the head; set it there or give --storage}"'
#: What of Ray tells about uploads and connections; the last two set their own level.
LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
#: Seconds in which a job that was stopped has to end.
STOP_SECONDS = 30


class JobError(RuntimeError):
    """A job cannot be sent, followed or stopped; the text says why."""


@dataclass(frozen=True)
class Job:
    """A job of the cluster.

    Attributes:
        name: by which it is followed and stopped.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        started: seconds since 1970.
        command: what it runs.
    """

    name: str
    status: str
    started: float
    command: str


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to the head.

        Args:
            address: of the head's dashboard, as `http://HOST:8265`.

        Raises:
            JobError: it does not answer, or refuses the token.
        """
        for logger in LOGGERS:
            logging.getLogger(logger).setLevel(logging.ERROR)
        self.address = address
        self._client = self._try(JobSubmissionClient, address)

    def submit(
        self, study: Study, study_file: Path, settings: Sequence[str], storage: Path | None
    ) -> str:
        """Send a study to the cluster, with the current folder, and return the job's name.

        Args:
            study: what the file and the settings say.
            study_file: in the current folder.
            settings: as `tuning run` takes them after `--set`.
            storage: where study folders go; None for the cluster's `TUNING_STORAGE`.

        Raises:
            JobError: the study cannot be run from the current folder, or the head refuses it.
        """
        folder = Path.cwd()
        runtime = {
            "working_dir": str(folder),
            "excludes": list(EXCLUDED),
            "env_vars": {COMMIT_VARIABLE: git_commit()},
        }
        command = entrypoint(study, _inside(study_file, folder), settings, storage)
        return str(self._try(self._client.submit_job, entrypoint=command, runtime_env=runtime))

    def follow(self, name: str, write: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends; return its exit code.

        Raises:
            JobError: there is no such job, or the connection broke.
        """
        self.job(name)
        asyncio.run(self._tail(name, write))
        details = self._details(name)
        if details.status.value == "SUCCEEDED":
            return 0
        if details.driver_exit_code is None or details.driver_exit_code < 0:
            raise JobError(f"{name}: {str(details.message).strip().splitlines()[0]}")
        return int(details.driver_exit_code)

    def logs(self, name: str) -> str:
        """Return what a job has printed so far.

        Raises:
            JobError: there is no such job.
        """
        return str(self._try(self._client.get_job_logs, name))

    def job(self, name: str) -> Job:
        """Return a job by its name.

        Raises:
            JobError: there is no such job.
        """
        return _job(self._details(name))

    def all(self) -> list[Job]:
        """Return the cluster's jobs, the newest first."""
        found = [_job(details) for details in self._try(self._client.list_jobs)
                 if details.submission_id]  # fmt: skip
        return sorted(found, key=lambda job: job.started, reverse=True)

    def stop(self, name: str) -> Job:
        """Stop a job and wait until it ended; one that ended before is left as it is.

        Raises:
            JobError: there is no such job, or it does not end.
        """
        self._try(self._client.stop_job, name)
        deadline = time.monotonic() + STOP_SECONDS
        while not self._details(name).status.is_terminal():
            if time.monotonic() > deadline:
                raise JobError(f"{name}: still runs {STOP_SECONDS} s after it was told to stop")
            time.sleep(0.5)
        return self.job(name)

    async def _tail(self, name: str, write: Callable[[str], None]) -> None:
        try:
            async for lines in self._client.tail_job_logs(name):
                write(lines)
        except (aiohttp.ClientError, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            raise JobError(
                f"the connection to {self.address} broke ({reason}); the job {name} goes on; "
                f"follow it with: tuning logs {name} --address {self.address}"
            ) from None

    def _details(self, name: str) -> JobDetails:
        return self._try(self._client.get_job_info, name)

    def _try(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call Ray; its errors of many lines become one line each."""
        try:
            return call(*arguments, **named)
        except AuthenticationError:
            raise JobError(
                f"{self.address}: the cluster refuses jobs without its token; copy the token of "
                "the machine that ran `ray up` to ~/.ray/auth_token"
            ) from None
        except ConnectionError:
            raise JobError(
                f"{self.address}: no cluster answers there; `ray dashboard cluster.yaml` opens "
                "the way to a head that listens on its loopback only"
            ) from None
        except (RuntimeError, ValueError) as error:
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            raise JobError(f"{self.address}: {lines[-1].strip()}") from None


def entrypoint(
    study: Study, study_file: Path, settings: Sequence[str], storage: Path | None
) -> str:
    """Return the shell command of a job.

    Data sets that the study looks for in a relative folder are kept on the storage, since the
    job's own folder is a new one each time.

    Raises:
        JobError: the study's own data has a relative path.
    """
    path = study.dataset.path
    if path is not None and not Path(path).is_absolute():
        raise JobError(
            f"dataset.path: must be absolute, on storage that the head sees, but got {path}"
        )
    where = STORAGE if storage is None else shlex.quote(str(storage))
    parts = ["python", "-m", "tuning", "run", shlex.quote(study_file.as_posix())]
    parts += ["--address", "auto", "--storage", where]
    for setting in settings:
        parts += ["--set", shlex.quote(setting)]
    if not Path(study.dataset.folder).is_absolute():
        parts += ["--set", f"dataset.folder={where}/{shlex.quote(study.dataset.folder)}"]
    command = " ".join(parts)
    return command if storage else f"{STORAGE_IS_SET} && {command}"


def _inside(study_file: Path, folder: Path) -> Path:
    """Return the study file's path in the folder that is sent."""
    resolved = study_file.resolve()
    if not resolved.is_relative_to(folder):
        raise JobError(f"{study_file}: lies outside of the current folder, which is sent; copy it")
    relative = resolved.relative_to(folder)
    if f"/{relative.parts[0]}/" in EXCLUDED:
        raise JobError(f"{study_file}: {relative.parts[0]}/ is not sent; copy the file out of it")
    return relative


def _job(details: JobDetails) -> Job:
    return Job(
        details.submission_id,
        details.status.value,
        (details.start_time or 0) / 1000,
        details.entrypoint,
    )
