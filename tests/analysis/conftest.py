from pathlib import Path

import pytest
from synthetic_studies import quickstart

from analysis.load import Results, load


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quickstart(tmp_path_factory.mktemp("studies") / "quickstart")


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return load([folder])


@pytest.fixture(scope="session")
def reference() -> Results:
    return load([], reference=True)
