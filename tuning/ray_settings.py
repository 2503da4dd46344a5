"""Settings of Ray and Tune that must stand in the environment, some before Ray is imported."""

from __future__ import annotations

import os
from pathlib import Path

SETTINGS = {
    # Our callbacks write results; a failed trial has no metric, which Tune would take for a fault.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Tune's state, which grows with the trials, is written at the begin and the end of a session;
    # in between, the record has it all.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    # Relative paths of a study mean the folder in which it was started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The older of Tune's two console outputs is the one that can be silenced.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials that ask for no GPU see none; the default of later versions of Ray, said aloud.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


def apply(address: str | None) -> None:
    """Set the environment of this process; call it before Ray is imported.

    Args:
        address: of the cluster that will be used. A head that finds a token demands it, but a
            driver with an address sends its own only under `RAY_AUTH_MODE=token`, which Ray reads
            when it is imported.
    """
    os.environ.update(SETTINGS)
    if address is not None and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()
