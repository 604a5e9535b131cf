"""The tests' temporary files are kept in memory where there is room for them.

Each test copies a database of some 300 files and drops it. Where ext4 has just deleted thousands
of files, creating one takes milliseconds of CPU: it looks at each deleted inode before it reuses
one (`recently_deleted` in the kernel's fs/ext4/ialloc.c). That took two fifths of the CPU time of
`make test`.
"""

import os
from pathlib import Path
from typing import Final

IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - of every user, like /tmp
ROOM: Final = 4 << 30
"""Bytes; `make test` and `make acceptance` used 0.6 GB at most."""


def keep_files_in_memory() -> None:
    """Let pytest's folders be in memory, unless their place is set or memory is short."""
    try:
        found = os.statvfs(IN_MEMORY)
    except OSError:
        return  # not Linux
    free = found.f_bavail * found.f_frsize
    if free >= ROOM and not found.f_flag & os.ST_NOEXEC and os.access(IN_MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
