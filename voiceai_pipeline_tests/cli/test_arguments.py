"""A user and a range of days, as typed."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline_tests.support.command_line import (
    A_DAY,
    NEXT_DAY,
    Program,
)


@pytest.mark.parametrize("words", [["connect"], ["disconnect", "--yes"], ["check"]])
def test_an_unknown_user_is_one_sentence(program: Program, words: Sequence[str]) -> None:
    refused = program(*words, "Unknown & Sons")

    assert refused.code == 1
    assert refused.err == (
        "Error: No user 'Unknown & Sons'. List the users with: voiceai-pipeline users; "
        "add one with: voiceai-pipeline connect NAME --new\n"
    )


def test_a_name_that_two_users_share_requires_an_id(program: Program) -> None:
    with program.engine.begin() as db:
        for number in (1, 2):
            connections.add_user(db, UUID(int=number), business_name="Twin")

    refused = program("check", "twin")

    assert refused.code == 1
    assert refused.err == (
        f"Error: 2 users are called 'twin'; use an id: {UUID(int=1)}, {UUID(int=2)}\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--start", "yesterday"], "--from 'yesterday' is not a valid day. Use YYYY-MM-DD."),
        (["--from", "2026-02-30"], "--from '2026-02-30' is not a valid day. Use YYYY-MM-DD."),
        (
            ["--start", A_DAY, "--end", "20.11.2026"],
            "--to '20.11.2026' is not a valid day. Use YYYY-MM-DD.",
        ),
        (["--start", NEXT_DAY, "--to", A_DAY], f"--from {NEXT_DAY} is after --to {A_DAY}."),
        ([], "Missing option '--from' / '--start'."),
    ],
)
def test_sync_refuses_invalid_days(program: Program, words: Sequence[str], sentence: str) -> None:
    refused = program("sync", *words)

    assert refused.code == 2
    assert sentence in refused.err
