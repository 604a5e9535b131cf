"""A file system of a few megabytes, which tests fill."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class SmallDisk:
    """Where it is mounted."""

    folder: Path

    def fill(self) -> None:
        """Take all the room that is left."""
        free = os.statvfs(self.folder)
        with (self.folder / "filler").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)

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
