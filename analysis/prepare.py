"""Raw rows of trials become a table with known types and a few derived columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tuning.record import COLUMNS

#: Hyperparameters among the contract's columns, and the two that a reference table may add.
CONTRACT_HYPERPARAMETERS = (
    "batch_size",
    "optimizer",
    "lr",
    "max_epochs",
    "pin_memory",
    "kernel",
    "C",
    "gamma",
    "degree",
    "precision",
    "image_size",
)
#: Facts and measurements that a trial may have beyond the contract's columns.
KNOWN_MEASUREMENTS = (
    "device_name",
    "train_loss",
    "image_size",
    "study",
    "source",
    "label",
    "device_label",
    "co_tenants",
    "peak_gflops",
    "workers",
)
INTEGERS = (
    "seed",
    "batch_size",
    "epochs",
    "degree",
    "parameters",
    "best_epoch",
    "max_epochs",
    "threads",
    "train_images",
    "test_images",
    "image_size",
    "co_tenants",
    "zero_stage",
    "workers",
)
FLOATS = (
    "lr",
    "C",
    "val_accuracy",
    "test_accuracy",
    "train_seconds",
    "predict_seconds",
    "total_seconds",
    "images_per_second",
    "gflops",
    "val_loss",
    "cpus",
    "gpus",
    "out_of_memory_at",
    "started",
    "ended",
    "peak_gflops",
)
# A reference table names the device only ("A30"), so that the name must tell the class.
_CPU_NAME = re.compile(r"\b(cpu|xeon|epyc|ryzen|core|opteron|graviton|altra|arm\w*|x86\w*)\b", re.I)
_GPU_NAME = re.compile(r"\b(cuda|gpu|nvidia|geforce|tesla|radeon|instinct)", re.I)


def prepare(table: pd.DataFrame, environment: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the table with every contract column, known types and the derived columns.

    Derived: `label` (the model, an SVM with its kernel, a network with its stem unless that is
    torchvision's and with its engine unless that is plain PyTorch), `device_label` (the device's
    name where it is known), `co_tenants` (other trials that ran on the same host at some time of
    this one) and `peak_gflops` (GFLOP/s of the host's measured matrix product). `environment` None
    keeps the peaks that the table has.
    """
    table = table.reindex(columns=list(dict.fromkeys([*COLUMNS, *table.columns])))
    for column in table.columns:
        if column in INTEGERS:
            table[column] = integers(table[column])
        elif column in FLOATS:
            table[column] = pd.to_numeric(table[column], errors="coerce").astype(float)
        else:
            table[column] = _objects(table[column])
    if "device_name" not in table:
        table["device_name"] = _empty(table)
    if "image_size" not in table:
        table["image_size"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["gamma"] = table["gamma"].map(_number)
    table["error"] = table["error"].fillna("")
    table["label"] = _labels(table)
    table["device_label"] = table["device_name"].fillna(table["device"])
    table["co_tenants"] = pd.array(co_tenants(table), dtype="Int64")
    if environment is not None:
        table["peak_gflops"] = _peaks(table, environment)
    return table


def is_cpu(device: object) -> bool:
    """Tell a CPU from an accelerator by the name of the device."""
    name = str(device)
    return bool(_CPU_NAME.search(name)) and not _GPU_NAME.search(name)


def co_tenants(table: pd.DataFrame) -> list[int | None]:
    """Count for each trial the others whose time on the same host overlaps with its own.

    A trial without a host or a start is unknown (None); one without an end still runs.
    """
    counts: list[int | None] = [None] * len(table)
    known = table["host"].notna() & table["started"].notna()
    positions = pd.Series(np.arange(len(table)), index=table.index)[known]
    for _, members in positions.groupby(table["host"][known]):
        started = table["started"].to_numpy(float)[members]
        ended = np.nan_to_num(table["ended"].to_numpy(float)[members], nan=np.inf)
        begun = np.searchsorted(np.sort(started), ended, side="left")
        over = np.searchsorted(np.sort(ended), started, side="right")
        for position, count in zip(members, begun - over - 1, strict=True):
            counts[position] = max(int(count), 0)
    return counts


def integers(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return whole numbers that may be missing; numbers with a fraction stay as they are."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    if (numbers.dropna() % 1 == 0).all():
        return numbers.astype("Int64")
    return numbers


def _objects(values: pd.Series[Any]) -> pd.Series[Any]:
    """Make cells comparable: one kind of empty, true numbers and truth values, JSON for nested."""
    return pd.Series([_cell(v) for v in values.tolist()], index=values.index, dtype=object)


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return json.dumps(value)
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        return text or None
    return value


def _number(value: Any) -> Any:
    """Turn "0.1" into 0.1 and leave "scale": a CSV cannot tell them apart."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _empty(table: pd.DataFrame) -> pd.Series[Any]:
    return pd.Series([None] * len(table), index=table.index, dtype=object)


def _labels(table: pd.DataFrame) -> list[str]:
    """Name the models; a small stem and another engine than plain PyTorch are kept apart."""
    names = table["model"].fillna(table["trainable"]).fillna("unknown")
    stems = table["stem"].eq("small") if "stem" in table else [False] * len(table)
    return [
        f"{name} {kernel}"
        if name == "svm" and isinstance(kernel, str)
        else f"{name}{' small stem' if small else ''}{engine}"
        for name, kernel, small, engine in zip(
            names, table["kernel"], stems, _engines(table), strict=True
        )
    ]


def _engines(table: pd.DataFrame) -> list[str]:
    if "engine" not in table:
        return [""] * len(table)
    found = table.reindex(columns=["engine", "zero_stage", "workers"])
    return [
        ""
        if not isinstance(engine, str) or engine == "native"
        else f" {engine}"
        + (f" ZeRO {stage}" if engine == "deepspeed" else "")
        + (f" x{workers}" if workers > 1 else "")
        for engine, stage, workers in found.fillna({"workers": 1}).itertuples(index=False)
    ]


def _peaks(table: pd.DataFrame, environment: Mapping[str, Any]) -> pd.Series[Any]:
    """Look up the measured matrix-product peak of each CPU trial's host, in its precision."""
    hosts = environment.get("hosts")
    by_name = {h.get("host"): h for h in hosts if isinstance(h, dict)} if hosts else {}
    peaks = []
    for device, host, precision in zip(
        table["device"], table["host"], table["precision"], strict=True
    ):
        key = "fp32_gflops" if precision in (None, "fp32") else "bf16_gflops"
        peak = by_name.get(host, {}).get(key) if is_cpu(device) else None
        peaks.append(float(peak) if isinstance(peak, int | float) else np.nan)
    return pd.Series(peaks, index=table.index, dtype=float)
