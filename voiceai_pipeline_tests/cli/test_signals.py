"""Signals that stop a command, whatever its parent did with them."""

import signal
import subprocess
import sys

import pytest

from voiceai_pipeline.cli.signals import restore_in_child
from voiceai_pipeline_tests.support.processes import block_signals

COMMAND = """
import signal
from voiceai_pipeline.cli.signals import interruptible
try:
    with interruptible():
        print("started", flush=True)
        signal.pause()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_obeys_ctrl_c_and_sigterm_that_its_parent_ignores_and_blocks(
    number: signal.Signals,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=block_signals,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "started\n"
        command.send_signal(signal.SIGHUP)  # nohup asked for it to be ignored
        command.send_signal(number)
        assert command.stdout.read() == "interrupted\n"


def test_a_closed_terminal_stops_a_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=restore_in_child,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "started\n"
        command.send_signal(signal.SIGHUP)
        assert command.stdout.read() == "interrupted\n"
