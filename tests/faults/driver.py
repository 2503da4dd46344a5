"""`tuning` with the stand-in for real training: `python -m tests.faults.driver run ...`."""

from __future__ import annotations

from tests.faults.stand_in import StandInTrial
from tuning import cli, experiment

if __name__ == "__main__":
    experiment.StudyTrial = StandInTrial  # type: ignore[misc]
    cli.main()
