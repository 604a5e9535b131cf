"""The hash of a call."""

import hashlib

import pytest
from msgspec import Raw

from voiceai_pipeline.core.call import digest


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 4094, 10_000])
def test_a_hash_taken_in_pieces_is_that_of_the_whole(size: int) -> None:
    content = bytes(n % 251 for n in range(size))
    assert digest(hashlib.sha256(), content) == hashlib.sha256(content).digest()
    keyed = hashlib.blake2b(content, key=b"k")
    assert digest(hashlib.blake2b(key=b"k"), Raw(content)) == keyed.digest()
