"""Homes for the tests of the embedded server, whose server is stopped after each test."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from voiceai_pipeline_tests.support.embedded_homes import end, hold


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that is not there yet."""
    home = tmp_path / "home"
    yield home
    end(home)
    shutil.rmtree(home, ignore_errors=True)  # 40 MB


@pytest.fixture(scope="module")
def old_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("old") / "home"
    hold(home).release()
    end(home)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(old_home: Path) -> Iterator[Path]:
    """A home whose data many tests share; its server runs at the beginning of none."""
    yield old_home
    end(old_home)


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that any user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        end(Path(folder) / "home")
