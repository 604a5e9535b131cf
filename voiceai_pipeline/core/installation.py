"""Whether this is a clone of the repository or an installed package, and the supported platforms.

Messages name the commands that exist in this kind of installation.
"""

import sys
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parents[1]

SYSTEMS: Final = {"linux": "Linux", "darwin": "macOS"}
PLATFORMS: Final = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
"""Systems and processors for which every locked package has a wheel; ``make lock`` checks it."""

PYTHONS: Final = ((3, 11), (3, 12), (3, 13), (3, 14))


def shipped(name: str) -> Path:
    """The path of a file such as ``dagster.yaml``: at the top of a clone, or inside the package."""
    inside = _PACKAGE / name
    return inside if inside.is_file() else _PACKAGE.parent / name


IS_CLONE: Final = not (_PACKAGE / "dagster.yaml").is_file()

START: Final = "make up" if IS_CLONE else "voiceai-pipeline up"

UPDATE: Final = (
    "git pull, then make up"
    if IS_CLONE
    else "pip install --upgrade voiceai-pipeline, or the same with pipx or uv tool"
)

INSTALL_PARQUET: Final = "make parquet" if IS_CLONE else "pip install 'voiceai-pipeline[parquet]'"


def start_on(port: int) -> str:
    """The command that starts everything with Dagster's UI on another port."""
    return f"{START} PORT={port}" if IS_CLONE else f"{START} --port {port}"


def obstacle(
    system: str = sys.platform, python: tuple[int, ...] = sys.version_info[:2]
) -> str | None:
    """Why the pipeline cannot run here, and what to do; None if it can."""
    if system in ("win32", "cygwin"):
        return "Windows is not supported. Install WSL (wsl --install), and this in it, as on Linux."
    if system not in SYSTEMS:
        return f"The system {system} is not supported. Use {' or '.join(SYSTEMS.values())}."
    if python < PYTHONS[0]:
        found, first, last = (".".join(map(str, one)) for one in (python, PYTHONS[0], PYTHONS[-1]))
        return f"Python {found} is too old. Use Python {first} to {last}."
    return None
