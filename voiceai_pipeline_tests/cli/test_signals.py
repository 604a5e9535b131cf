"""Signals that stop a command, whatever its parent did with them."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def command(before: Callable[[], None]) -> Iterator[subprocess.Popen[str]]:
    """A command, once it can be interrupted; then the test waits until it is.

    Args:
        before: called in its process before it starts its program.
    """
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True, preexec_fn=before
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
        assert process.stdout.read() == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_obeys_ctrl_c_and_sigterm_that_its_parent_ignores_and_blocks(
    number: signal.Signals,
) -> None:
    with command(block_signals) as process:
        process.send_signal(signal.SIGHUP)  # stays ignored, as nohup requested
        process.send_signal(number)


def test_a_closed_terminal_stops_a_command() -> None:
    with command(restore_in_child) as process:
        process.send_signal(signal.SIGHUP)
