"""A file system of a few megabytes, which tests fill."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_LAST = 2**20
_PIECE = 2**10


@dataclass
class SmallDisk:
    """Where it is mounted."""

    folder: Path

    def fill(self) -> None:
        """Take all the room that is left, also beside programs that write."""
        with (self.folder / "filler").open("ab", buffering=0) as file, suppress(OSError):
            free = os.statvfs(self.folder)
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - _LAST)
            while True:
                file.write(bytes(_PIECE))

    def free(self) -> None:
        (self.folder / "filler").unlink()


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A new one; the test is skipped where this user may not mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"]
    mount = subprocess.run(["/bin/mount", *options, folder], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a file system")
    yield SmallDisk(folder)
    subprocess.run(["/bin/umount", "--lazy", folder], check=True)
