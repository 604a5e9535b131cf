"""Pausing and resuming a user on the command line."""

from voiceai_pipeline_tests.support.command_line import Program


def test_a_user_is_paused_with_a_reason_and_resumed(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    paused = program("pause", "harbor dental", "--reason", "closed\x1b[2J until May")

    assert paused.code == 0
    assert "connected, syncs paused" in paused.out
    assert f"voiceai-pipeline resume {user}" in paused.out
    detail = program("users", str(user))
    assert "command line: closed[2J until May" in detail.out
    assert "Syncs paused by an operator (closed[2J until May)" in detail.out
    (facts,) = program("users", "--json").json
    assert facts["syncs_paused_since"] is not None
    assert facts["syncs_paused_by"] == "command line"
    assert facts["syncs_paused_because"] == "closed[2J until May"

    checked = program("check", "harbor dental")
    assert checked.code == 1
    assert "An operator has paused the user's syncs" in checked.out
    resumed = program("resume", "harbor dental", "--json")
    assert resumed.json["syncs_paused_since"] is None
    assert program("check", "harbor dental").code == 0


def test_pausing_an_unknown_user_is_one_sentence(program: Program) -> None:
    for command in ("pause", "resume"):
        refused = program(command, "nobody of this name")
        assert refused.code == 1
        assert "List the users with: voiceai-pipeline users" in refused.err
