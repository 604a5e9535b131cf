"""The hash of a call, and what its agent is called."""

import hashlib

import pytest
from msgspec import Raw

from voiceai_pipeline.core.call import agent_label, digest


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 4094, 10_000])
def test_a_hash_taken_in_pieces_is_that_of_the_whole(size: int) -> None:
    content = bytes(n % 251 for n in range(size))
    assert digest(hashlib.sha256(), content) == hashlib.sha256(content).digest()
    keyed = hashlib.blake2b(content, key=b"k")
    assert digest(hashlib.blake2b(key=b"k"), Raw(content)) == keyed.digest()


@pytest.mark.parametrize(
    ("agent", "label"),
    [
        (("5a124dde0001", "Front\ndesk", False), "Front desk"),
        (("5a124dde0001", "Front desk", True), "Front desk (deleted)"),
        (("5a124dde0001", None, True), "agent 5a124dde (deleted)"),
        (("5a124dde0001", "", False), "agent 5a124dde (never listed)"),
        (("", "Front desk", False), "no agent"),
        ((None, None, True), "no agent"),
    ],
)
def test_an_agent_is_called_by_its_last_known_name_and_marked_where_it_is_gone(
    agent: tuple[str | None, str | None, bool], label: str
) -> None:
    agent_id, name, is_deleted = agent
    assert agent_label(agent_id, name, is_deleted=is_deleted) == label
