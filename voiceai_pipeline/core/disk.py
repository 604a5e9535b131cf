"""How much room is left on a disk, and the sentence that warns of little."""

import shutil
from pathlib import Path
from typing import Final

LITTLE: Final = 2**30
"""Bytes free below which a disk is nearly full; less than ``LITTLE_SHARE`` of it counts too."""

LITTLE_SHARE: Final = 0.05

FULL: Final = 32 * 2**20
"""Bytes free below which a disk counts as full: PostgreSQL writes its log in files of 16 MB."""


def is_full(folder: Path) -> bool:
    """Whether nothing that writes to the disk of ``folder`` can be expected to run."""
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
        "until there is room again; nothing that is stored gets lost"
    )
