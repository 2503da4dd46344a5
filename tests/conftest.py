from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tuning.data import ImageData

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "search_spaces").rglob("*.yaml"))

NEEDS_BOHB = pytest.mark.skipif(
    importlib.util.find_spec("hpbandster") is None, reason="the extra `bohb` is not installed"
)

#: The smallest study that is right; tests change what they are about.
MINIMAL: dict[str, Any] = {
    "name": "small",
    "dataset": {"name": "digits"},
    "trainable": "resnet",
    "space": {"lr": {"grid": [0.1, 0.01]}},
}


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Write a study file: the minimal one, with keys replaced."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(MINIMAL | changes))
        return path

    return write


@pytest.fixture
def tuning_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `tuning` as a user would, in an empty folder."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tuning", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="session")
def blobs() -> ImageData:
    """200 images of 28x28 in two classes that a network tells apart in a few steps."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = generator.integers(0, 40, (200, 28, 28), dtype=np.uint8)
    images[labels == 1, 8:20, 8:20] += 150
    order = generator.permutation(200)
    return ImageData("blobs", images, labels.astype(np.int64), order[:120], order[120:150],
                     order[150:])  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        type=int,
        default=0,
        help="kills of the driver in tests/faults; other rows are repeated less often",
    )
