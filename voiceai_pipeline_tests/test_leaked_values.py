"""No file of the project holds a value that leaked with the source system.

``data/leaked.sha256`` holds the SHA-256 of each value, never the value. A text is read as words:
runs of the characters that identifiers, keys and URLs are made of, and the parts of these.
"""

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from voiceai_pipeline.cli.up import PROJECT

LEAKED: Final = frozenset((Path(__file__).parent / "data" / "leaked.sha256").read_text().split())

RUNS: Final = re.compile(rb"[\w.~+/=:@%&?-]{8,}")
PARTS: Final = (re.compile(rb"[\w.-]{8,}"), re.compile(rb"[\w-]{8,}"), re.compile(rb"[^\W_]{8,}"))


def words(content: bytes) -> Iterator[bytes]:
    """Every word of a file, its parts, and both without what may surround a value."""
    for run in set(RUNS.findall(content)):
        yield run
        yield run.strip(b".:=/?&")
        for part in PARTS:
            yield from part.findall(run)


def leaks(content: bytes) -> bool:
    return any(hashlib.sha256(word).hexdigest() in LEAKED for word in set(words(content)))


def files() -> list[Path]:
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("the tree is no git repository")
    return [PROJECT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_holds_a_value_that_leaked_with_the_source_system() -> None:
    found = [path for path in files() if path.is_file() and leaks(path.read_bytes())]
    assert found == []


def test_the_scan_finds_a_leaked_value_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    value = b"65f0c0ffee0000000000e001-m4abcdef"
    planted = frozenset({hashlib.sha256(value).hexdigest()})
    monkeypatch.setattr(f"{__name__}.LEAKED", planted)
    places = (
        b'CLIENT_ID = "%s"', b"client_id=%s&redirect_uri=x", b"VITE_CLIENT_ID=%s\n", b"<%s>",
        b"https://example.test/?client_id=%s", b"%s", b"| `%s` |", b"(%s).", b"user:%s@host",
    )  # fmt: skip
    assert [place for place in places if not leaks(place % value)] == []
    assert not leaks(b"nothing of the kind")
