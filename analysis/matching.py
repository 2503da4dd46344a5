"""Match trials on different devices for a fair speedup.

Two trials form a pair when everything in `MATCHED` agrees and only the device differs. A value that
neither of them records agrees, and the table says so. Seeds are averaged first (geometric mean), so
that repeats of one configuration count as one pair.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.columns import exact, listed
from analysis.prepare import INTEGERS, integers, is_cpu

#: Everything that must agree, in the order in which differences are told.
MATCHED = (
    "dataset",
    "label",
    "train_images",
    "batch_size",
    "optimizer",
    "lr",
    "epochs",
    "image_size",
    "precision",
    "pin_memory",
    "C",
    "gamma",
    "degree",
)


def find_pairs(trials: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match trials on different devices.

    Returns:
        Pairs, one row each: the matched values, `slow_device` (the CPU, where there is one),
        `fast_device`, `slow_trial`, `fast_trial`, `slow_seconds`, `fast_seconds`, `basis` (the
        column of the times), `speedup`, `slow_accuracy`, `fast_accuracy` and `members` (the labels
        of the rows in `trials`); and the rest: `trial_id`, `study`, `reason` and its `kind`,
        which leaves the values out.
    """
    usable, refused = _usable(_named(trials))
    if usable.empty:
        return pd.DataFrame(), _left_out(refused)
    paired = usable.groupby("key")["device_label"].transform("nunique").gt(1)
    refused += _unmatched(usable[~paired], usable)
    return _pairs(usable[paired]), _left_out(refused)


def matched_pairs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs alone; see `find_pairs`."""
    usable, _ = _usable(_named(trials))
    if usable.empty:
        return pd.DataFrame()
    return _pairs(usable[usable.groupby("key")["device_label"].transform("nunique").gt(1)])


def _pairs(usable: pd.DataFrame) -> pd.DataFrame:
    pairs = []
    for _, members in usable.groupby("key", sort=False):
        by_device = {str(d): rows for d, rows in members.groupby("device_label", sort=True)}
        for a, b in combinations(by_device, 2):
            # Sorted names keep the direction the same in every group of one table.
            slow, fast = (b, a) if is_cpu(b) and not is_cpu(a) else (a, b)
            pairs.append(_pair(by_device[slow], by_device[fast]))
    frame = pd.DataFrame(pairs)
    whole = {c: integers(frame[c]) for c in INTEGERS if c in frame}
    return frame.assign(**whole)


def _usable(trials: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Keep the completed trials whose time and device are known; say why of each other one."""
    timed = trials["total_seconds"].notna() | trials["train_seconds"].notna()
    reasons = np.select(
        [
            trials["status"].eq("stopped"),
            trials["status"].ne("completed"),
            trials["device_label"].isna(),
            ~timed,
        ],
        [
            "stopped early, so it ran fewer epochs",
            "did not complete",
            "its device is not recorded",
            "its time is not recorded",
        ],
        default="",
    )
    refused = [
        {"study": study, "trial_id": trial, "reason": reason}
        for study, trial, reason in zip(trials["study"], trials["trial_id"], reasons, strict=True)
        if reason
    ]
    usable = trials[reasons == ""]
    keys = pd.Series(_keys(usable), index=usable.index, dtype=object)
    return usable.assign(key=keys), refused


def _named(trials: pd.DataFrame) -> pd.DataFrame:
    """Name trials by their study too where several studies have one of that id."""
    twice = trials["trial_id"].duplicated(keep=False)
    qualified = trials["study"].astype(str) + "/" + trials["trial_id"].astype(str)
    return trials.assign(trial_id=trials["trial_id"].where(~twice, qualified))


def _keys(trials: pd.DataFrame) -> list[tuple[str, ...]]:
    columns = [[exact(v) for v in trials[c].tolist()] for c in MATCHED if c in trials]
    return list(zip(*columns, strict=True))


def _pair(slow: pd.DataFrame, fast: pd.DataFrame) -> dict[str, Any]:
    both = slow["train_seconds"].notna().all() and fast["train_seconds"].notna().all()
    basis = "train_seconds" if both else "total_seconds"
    times = [float(np.exp(np.log(rows[basis].astype(float)).mean())) for rows in (slow, fast)]
    return {
        **{c: slow[c].iloc[0] for c in MATCHED if c in slow},
        "slow_device": slow["device_label"].iloc[0],
        "fast_device": fast["device_label"].iloc[0],
        "slow_trial": ", ".join(slow["trial_id"]),
        "fast_trial": ", ".join(fast["trial_id"]),
        "slow_accuracy": slow["test_accuracy"].mean(),
        "fast_accuracy": fast["test_accuracy"].mean(),
        "members": [*slow.index, *fast.index],
        "slow_seconds": times[0],
        "fast_seconds": times[1],
        "basis": basis.replace("_", " "),
        "speedup": times[0] / times[1],
    }


def _unmatched(alone: pd.DataFrame, usable: pd.DataFrame) -> list[dict[str, Any]]:
    """Name for each trial without a partner what its nearest one on another device differs in."""
    names = [c for c in MATCHED if c in usable]
    distinct = usable.drop_duplicates(["key", "device_label"])
    keys = np.array([list(k) for k in distinct["key"]], dtype=object)
    devices = distinct["device_label"].to_numpy()
    reasons: dict[tuple[Any, Any], tuple[str, str]] = {}
    rows = []
    for study, trial, key, device in zip(
        alone["study"], alone["trial_id"], alone["key"], alone["device_label"], strict=True
    ):
        if (key, device) not in reasons:
            others = keys[devices != device]
            reasons[key, device] = _reason(key, others, names, str(device))
        kind, reason = reasons[key, device]
        rows.append({"study": study, "trial_id": trial, "reason": reason, "kind": kind})
    return rows


def _reason(key: tuple[str, ...], others: Any, names: list[str], device: str) -> tuple[str, str]:
    """Return why a trial has no partner, in short and with the values."""
    if not len(others):
        reason = f"every timed trial ran on {device}: there is no other device to compare with"
        return reason, reason
    dataset, label = names.index("dataset"), names.index("label")
    same = (others[:, dataset] == key[dataset]) & (others[:, label] == key[label])
    if not same.any():
        reason = f"no other device ran {key[label]} on {key[dataset]}"
        return reason, reason
    others = others[same]
    differs = others != np.array(key, dtype=object)
    nearest = int(differs.sum(axis=1).argmin())
    parts = [
        f"{'model' if name == 'label' else name} "
        f"({value or 'not recorded'} against {other or 'not recorded'})"
        for name, value, other, different in zip(
            names, key, others[nearest], differs[nearest], strict=True
        )
        if different
    ]
    columns = [n for n, different in zip(names, differs[nearest], strict=True) if different]
    head = "the nearest trial on another device differs in"
    return f"{head} {listed(columns)}", f"{head} {listed(parts)}"


def _left_out(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["study", "trial_id", "reason", "kind"])
    return frame.assign(kind=frame["kind"].fillna(frame["reason"]))
