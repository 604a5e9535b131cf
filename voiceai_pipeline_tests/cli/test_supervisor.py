"""Children that die, ignore signals, or lose their parent: real processes and real kills."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from voiceai_pipeline.cli import supervisor
from voiceai_pipeline.cli.supervisor import ChildError, Supervisor
from voiceai_pipeline_tests.support.processes import SIGNALS, block_signals, is_alive, wait_until

SLEEPER = ["sleep", "1000"]

# A child that starts a grandchild, writes its pid into a file, and sleeps.
WITH_GRANDCHILD = "sleep 1000 & echo $! > {pids}; exec sleep 1000"

STUBBORN = "trap '' TERM; echo ready; while true; do sleep 1; done"

PARENT = """
import sys, time
from pathlib import Path
from voiceai_pipeline.cli.supervisor import Supervisor
home = Path(sys.argv[1])
supervisor = Supervisor(home / "logs", home, print)
supervisor.start("one", ["sh", "-c", sys.argv[2]], {"PATH": "/usr/bin:/bin"})
supervisor.start("two", ["sleep", "1000"], {"PATH": "/usr/bin:/bin"})
print("\\n".join(str(child.process.pid) for child in supervisor._children), flush=True)
while True:
    supervisor.keep_running()
    with (home / "looks").open("a") as looks:
        looks.write(".")
    time.sleep(0.05)
"""


def looks(home: Path) -> int:
    """How often the parent has looked after its children."""
    return (home / "looks").stat().st_size


class Reported(list[str]):
    """The lines that a supervisor reported."""

    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture
def reported() -> Reported:
    return Reported()


@pytest.fixture
def children(tmp_path: Path, reported: Reported) -> Iterator[Supervisor]:
    children = Supervisor(tmp_path / "logs", tmp_path, reported)
    yield children
    children.stop()


def my_pids() -> set[int]:
    """The running children of this process."""
    return {child.pid for child in psutil.Process().children() if is_alive(child.pid)}


def has_reported(children: Supervisor, reported: Reported) -> bool:
    children.keep_running()
    return bool(reported)


def read_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text())


def tether_of(pid: int) -> psutil.Process:
    def found() -> list[psutil.Process]:
        living = [child for child in psutil.Process(pid).children() if is_alive(child.pid)]
        return [child for child in living if "voiceai_pipeline.cli.supervisor" in child.cmdline()]

    wait_until(found)
    return found()[0]


def test_a_child_that_dies_is_restarted_and_reported(
    children: Supervisor, reported: Reported
) -> None:
    children.start("sleeper", SLEEPER, os.environ)
    (first,) = [p for p in psutil.Process().children() if p.cmdline() == SLEEPER]

    first.kill()
    wait_until(lambda: has_reported(children, reported))

    assert reported == ["The sleeper stopped (killed by SIGKILL); starting it again."]
    (second,) = [p for p in psutil.Process().children() if p.cmdline() == SLEEPER]
    assert second.pid != first.pid


def test_what_a_dead_child_had_started_is_killed_before_the_restart(
    children: Supervisor, reported: Reported, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    children.start("family", ["sh", "-c", WITH_GRANDCHILD.format(pids=pids)], os.environ)
    grandchild = read_pid(pids)
    pids.unlink()
    parent = psutil.Process(grandchild).parent()
    assert parent is not None

    parent.kill()
    wait_until(lambda: has_reported(children, reported))

    wait_until(lambda: not is_alive(grandchild))
    assert read_pid(pids) != grandchild


def test_a_child_that_keeps_stopping_raises_with_the_end_of_its_log(
    children: Supervisor, reported: Reported
) -> None:
    children.start("failing", ["sh", "-c", "echo out of cheese >&2; exit 3"], os.environ)

    def is_given_up() -> bool:
        try:
            children.keep_running()
        except ChildError as error:
            given_up.append(str(error))
        return bool(given_up)

    given_up: list[str] = []
    wait_until(is_given_up)

    assert reported == ["The failing stopped (exit code 3); starting it again."] * 3
    assert given_up[0].startswith("The failing keeps stopping. Its log, ")
    assert given_up[0].endswith(
        "failing.log, ends with:\n" + "out of cheese\n" * 3 + "out of cheese"
    )


def test_a_program_that_cannot_be_started_leaves_nothing_behind(children: Supervisor) -> None:
    with pytest.raises(FileNotFoundError):
        children.start("missing", ["/nonexistent/program"], os.environ)

    children.keep_running()


def test_stop_stops_children_and_grandchildren(children: Supervisor, tmp_path: Path) -> None:
    before = my_pids()
    pids = tmp_path / "pids"
    children.start("family", ["sh", "-c", WITH_GRANDCHILD.format(pids=pids)], os.environ)
    children.start("sleeper", SLEEPER, os.environ)
    grandchild = read_pid(pids)

    children.stop()

    wait_until(lambda: not is_alive(grandchild))
    assert my_pids() <= before  # the tether has gone too


def test_stop_kills_a_child_that_ignores_sigterm(
    children: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.3)
    before = my_pids()
    children.start("stubborn", ["sh", "-c", STUBBORN], os.environ)
    wait_until(lambda: children.tail("stubborn") == "ready")

    children.stop()

    assert my_pids() <= before


def test_a_killed_tether_is_replaced_and_the_new_one_knows_every_group(tmp_path: Path) -> None:
    with parent(tmp_path, "sleep 1000") as (process, pids):
        killed = tether_of(process.pid)
        killed.kill()
        wait_until(lambda: not is_alive(killed.pid))
        wait_until(lambda: tether_of(process.pid).pid != killed.pid)
        # It knows every group by the end of the look that replaced it.
        before = looks(tmp_path)
        wait_until(lambda: looks(tmp_path) > before)

        process.kill()
        process.wait()

        wait_until(lambda: not any(map(is_alive, pids)))


def test_stop_stops_everything_even_without_its_tether(children: Supervisor) -> None:
    before = my_pids()
    children.start("one", SLEEPER, os.environ)
    children.start("two", SLEEPER, os.environ)
    tether_of(os.getpid()).kill()
    wait_until(lambda: len(my_pids() - before) == 2)

    children.stop()

    assert my_pids() <= before


def test_a_killed_parent_takes_its_children_and_grandchildren_along(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    with parent(tmp_path, WITH_GRANDCHILD.format(pids=file)) as (process, pids):
        pids.append(read_pid(file))
        assert all(map(is_alive, pids))

        process.kill()
        process.wait()

        wait_until(lambda: not any(map(is_alive, pids)))


def test_the_tether_kills_a_group_that_ignores_sigterm() -> None:
    with group("sh", "-c", STUBBORN) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        code = "from voiceai_pipeline.cli import supervisor as s; s.GRACE = 0.3; s.tether(['+{}'])"
        code = code.format(stubborn.pid)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

        assert stubborn.wait(60) == -signal.SIGKILL


def test_the_tether_spares_a_group_that_was_removed_from_its_list() -> None:
    with group(*SLEEPER) as ended, group(*SLEEPER) as ours, tether() as pipe:
        pipe.write(f"+{ended.pid}\n+{ours.pid}\n-{ended.pid}\n")
        pipe.close()

        assert ours.wait(60) == -signal.SIGTERM
        assert ended.poll() is None


def test_the_tether_ignores_the_signals_that_stop_its_parent() -> None:
    with group(*SLEEPER) as ours, tether(signals=True) as pipe:
        pipe.write(f"+{ours.pid}\n")
        pipe.close()

        assert ours.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("number", SIGNALS)
def test_a_child_obeys_signals_that_its_parent_ignores_and_blocks(
    number: signal.Signals, tmp_path: Path
) -> None:
    with parent(tmp_path, "exec sleep 1000", before=block_signals) as (process, pids):
        os.kill(pids[0], number)
        wait_until(lambda: not is_alive(pids[0]))

        assert process.stdout is not None
        assert process.stdout.readline() == (
            f"The one stopped (killed by {number.name}); starting it again.\n"
        )


@contextlib.contextmanager
def tether(*, signals: bool = False) -> Iterator[IO[str]]:
    """The pipe of a tether.

    Args:
        signals: send the tether every signal that stops its parent.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "voiceai_pipeline.cli.supervisor"], stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        if signals:
            wait_until(lambda: ignores_sigterm(process.pid))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                process.send_signal(number)
        yield process.stdin
        assert process.wait(60) == 0


def ignores_sigterm(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


@contextlib.contextmanager
def parent(
    home: Path, first: str, *, before: Callable[[], None] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with a supervisor and two children, and the children's pids.

    Args:
        before: called in the process before it starts its program.
    """
    with subprocess.Popen(
        [sys.executable, "-u", "-c", PARENT, str(home), first],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    ) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        try:
            yield process, pids
        finally:
            process.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def group(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that leads a process group of its own."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_logs_are_private_and_rotated_while_their_child_writes(
    children: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1_000)
    script = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.001; done"
    children.start("chatty", ["sh", "-c", script], os.environ)
    log, previous = tmp_path / "logs" / "chatty.log", tmp_path / "logs" / "chatty.log.1"
    wait_until(lambda: log.stat().st_size > 1_000)
    children.keep_running()
    assert previous.read_text().startswith("line 1\n")
    wait_until(lambda: log.stat().st_size > 0)
    assert log.stat().st_size < 1_000_000
    assert "\0" not in log.read_text()
    assert [path.stat().st_mode & 0o777 for path in (log, previous)] == [0o600, 0o600]
    assert log.parent.stat().st_mode & 0o777 == 0o700


def test_what_a_child_writes_is_for_no_other_account(children: Supervisor, tmp_path: Path) -> None:
    script = 'mkdir "$0" && touch "$0/log" && mv "$0" "$1" && sleep 600'
    draft, kept = tmp_path / "draft", tmp_path / "kept"
    children.start("writer", ["sh", "-c", script, str(draft), str(kept)], os.environ)
    wait_until(kept.exists)
    assert [path.stat().st_mode & 0o777 for path in (kept, kept / "log")] == [0o700, 0o600]
