from pathlib import Path

import pytest

from analysis.load import Results, load
from tests.analysis.synthetic_studies import quickstart


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quickstart(tmp_path_factory.mktemp("studies") / "quickstart")


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return load([folder])


@pytest.fixture(scope="session")
def reference() -> Results:
    return load([], reference=True)
