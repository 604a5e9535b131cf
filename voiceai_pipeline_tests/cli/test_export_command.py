"""``export``: its options, its files and its messages."""

from pathlib import Path

import pytest

from voiceai_pipeline_tests.support.command_line import (
    A_DAY,
    NEXT_DAY,
    Program,
)
from voiceai_pipeline_tests.support.demo_users import DEMO


@pytest.fixture
def calls(program: Program) -> None:
    """Two days of one user's calls, and a call of another location."""
    program.connect("Harbor Dental")
    for location, day in (
        (DEMO["Harbor Dental"].location_id, A_DAY),
        (DEMO["Harbor Dental"].location_id, NEXT_DAY),
        ("LocElsewhere", A_DAY),
    ):
        program.execute(
            "INSERT INTO call_logs (location_id, call_id, started_at, transcript, "
            "executed_call_actions, raw, content_hash, first_seen_at, last_changed_at) "
            "VALUES (:location, :call, CAST(:day AS date), 'in private', '[]', '{}', '', now(), "
            "now())",
            location=location,
            call=f"{location} {day}",
            day=day,
        )


def test_an_export_goes_to_standard_output_or_to_a_file_in_the_format_of_its_extension(
    program: Program, calls: None, tmp_path: Path
) -> None:
    printed = program.apart("export", "calls", "--from", A_DAY)
    path = tmp_path / "two.parquet"
    both = program("export", "calls", "--from", A_DAY, "--to", NEXT_DAY, "-o", str(path))
    again = program("export", "calls", "--from", A_DAY, "-o", str(path))
    one = program(
        "export", "calls", "--from", A_DAY, "--user", "harbor dental", "--content",
        "-o", str(tmp_path / "one"),
    )  # fmt: skip

    assert (printed.code, len(printed.out.splitlines())) == (0, 3)
    assert "in private" not in printed.out
    assert printed.err == f"Wrote 2 calls of {A_DAY}.\n"
    assert (both.code, both.out) == (0, "")
    assert both.err == f"Wrote 3 calls of {A_DAY} to {NEXT_DAY} to {path}.\n"
    assert path.read_bytes()[:4] == b"PAR1"
    assert again.code == 1
    assert again.err.startswith(f"Error: {path} already exists")
    assert one.err == f"Wrote 1 calls of {A_DAY} to {tmp_path / 'one'}.\n"
    assert "in private" in (tmp_path / "one").read_text()


def test_an_export_whose_reader_stops_early_prints_no_error(program: Program, calls: None) -> None:
    program.execute(
        "INSERT INTO call_logs (location_id, call_id, started_at, executed_call_actions, raw, "
        "content_hash, first_seen_at, last_changed_at) SELECT 'LocBusy', n::text, "
        "CAST(:day AS date), '[]', '{}', '', now(), now() FROM generate_series(1, 30000) AS n",
        day=A_DAY,
    )
    with program.talking("export", "calls", "--from", A_DAY) as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("location_id,")
        command.stdout.close()
        assert command.stderr is not None
        assert (command.wait(120), command.stderr.read()) == (1, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["calls"], "Missing option '--from'"),
        (["callers", "--from", A_DAY], "'callers' is not"),
        (
            ["calls", "--from", "yesterday"],
            "--from 'yesterday' is not a valid day. Use YYYY-MM-DD.",
        ),
        (["calls", "--start", NEXT_DAY, "--end", A_DAY], f"is after --to {A_DAY}."),
        (["calls", "--from", A_DAY, "--format", "xlsx"], "'xlsx' is not one of 'csv',"),
        (["calls", "--from", A_DAY, "--format", "parquet"], "Parquet needs a file: -o FILE"),
    ],
)
def test_wrong_usage_of_export_is_one_sentence(
    program: Program, words: list[str], said: str
) -> None:
    refused = program("export", *words)

    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err


def test_an_export_of_a_user_without_a_location_is_one_sentence(program: Program) -> None:
    program.add("Juniper Fitness")

    refused = program("export", "calls", "--from", A_DAY, "--user", "Juniper Fitness")
    unknown = program("export", "calls", "--from", A_DAY, "--user", "unknown")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "Error: Juniper Fitness: no location yet, so no calls. Nothing was written.\n"
    )
    assert unknown.err.startswith("Error: No user 'unknown'.")
