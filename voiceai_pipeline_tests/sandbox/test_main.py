"""The sandbox as a process: its address, its exit, and its messages on a bad start."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "voiceai_pipeline.sandbox", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_says_where_it_listens_and_stops_cleanly(
    number: signal.Signals, tmp_path: Path
) -> None:
    with start("--port", "0", "--state-file", str(tmp_path / "state.json")) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split()[-1]
        assert requests.get(f"{url}/sandbox/state", timeout=60).json()["bad_day"]
        process.send_signal(number)
        assert process.wait(120) == 0
        assert process.stderr.read() == ""


def test_a_taken_port_is_said_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with start("--port", port) as process:
            assert process.stderr is not None
            assert process.wait(120) == 1
            said = process.stderr.read()
    assert said == f"The sandbox cannot use 127.0.0.1:{port}: Address already in use.\n"


def test_a_foreign_state_file_is_said_in_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text("[]")
    with start("--port", "0", "--state-file", str(state)) as process:
        assert process.stderr is not None
        assert process.wait(120) == 1
        said = process.stderr.read()
    assert said == f"{state}: not a state file of this sandbox\n"
