"""`tuning` with the stand-in for real training: `python -m tests.faults.driver run ...`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.stand_in import StandInTrial
from tuning import callbacks, cli, experiment
from tuning.event_file import EventFile


class Trial(StandInTrial):
    """Brings what the driver was told along, to a Ray that was started without it."""

    environment = {k: v for k, v in os.environ.items() if k.startswith("FAULTS_")}  # noqa: RUF012

    def setup(self, config, **parameters):
        os.environ.update(self.environment)
        super().setup(config, **parameters)


class LogsElsewhere(callbacks.Recorder):
    """Keeps TensorBoard's files on a disk of their own, so that this one alone can be full."""

    def _writer(self, trial):
        return EventFile(Path(os.environ["FAULTS_LOGS"]) / trial.trial)


if __name__ == "__main__":
    experiment.StudyTrial = Trial  # type: ignore[misc]
    if os.environ["FAULTS_LOGS"]:
        experiment.Recorder = LogsElsewhere  # type: ignore[misc]
    cli.main()
