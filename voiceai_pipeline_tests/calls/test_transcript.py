"""Transcripts as turns, from text and from the list that knows times and tools."""

from voiceai_pipeline.calls.transcript import Speaker, Turn, turns


def test_lines_without_a_label_go_on_with_the_turn_before_them() -> None:
    assert turns("bot:Hello\nthere\n\nhuman: Hi: you\nUSER:Again", None) == [
        Turn(1, Speaker.AGENT, "Hello\nthere"),
        Turn(2, Speaker.CALLER, "Hi: you"),
        Turn(3, Speaker.CALLER, "Again"),
    ]


def test_a_transcript_without_known_labels_is_one_turn_of_an_unknown_speaker() -> None:
    assert turns("Speaker 1: Hello\nSpeaker 2: Hi", []) == [
        Turn(1, Speaker.UNKNOWN, "Speaker 1: Hello\nSpeaker 2: Hi")
    ]
    assert turns(" \n", None) == turns(None, None) == []


def test_tools_stand_between_the_turns_and_have_no_number() -> None:
    timed = [
        {"role": "agent", "content": "Hello", "startTime": 0.5},
        {"role": "action_executed", "toolName": "", "toolType": "end_call", "startTime": True},
        {"role": "user", "content": " ", "startTime": 1},
        {"role": "someone", "content": "Bye", "startTime": -4},
        "not a turn",
    ]
    assert turns("bot:Other", timed) == [
        Turn(1, Speaker.AGENT, "Hello", 0.5),
        Turn(None, Speaker.TOOL, "end_call"),
        Turn(2, Speaker.UNKNOWN, "Bye"),
    ]


def test_a_list_of_tools_alone_does_not_hide_what_was_said() -> None:
    assert turns("bot:Hello", [{"role": "action_executed", "toolName": "end"}]) == [
        Turn(1, Speaker.AGENT, "Hello"),
        Turn(None, Speaker.TOOL, "end"),
    ]
