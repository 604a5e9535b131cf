"""How much space is free on a disk, and the warning if it is little."""

import shutil
from pathlib import Path
from typing import Final

LITTLE: Final = 2**30
"""A disk with fewer free bytes, or less than ``LITTLE_SHARE`` of its size, is nearly full."""

LITTLE_SHARE: Final = 0.05

FULL: Final = 32 * 2**20
"""A disk with fewer free bytes counts as full: PostgreSQL writes its log in files of 16 MB."""


def is_full(folder: Path) -> bool:
    """Whether the disk of ``folder`` counts as full; False if that is unknown."""
    try:
        return shutil.disk_usage(folder).free < FULL
    except OSError:
        return False


def room_warning(folder: Path) -> str | None:
    """A sentence if the disk of ``folder`` is nearly full; None if it is not, or is unknown."""
    try:
        usage = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists()))
    except OSError:
        return None
    if usage.free >= max(LITTLE, usage.total * LITTLE_SHARE):
        return None
    return (
        f"Only {usage.free // 2**20:,} MB are free on the disk of {folder}, of "
        f"{usage.total // 2**20:,} MB. Free some space: a full disk stops syncs and refreshes "
        "until there is room again; no stored data is lost"
    )
