"""The operating-system account that PostgreSQL runs under, and how its programs are started.

PostgreSQL refuses to run as root or under an account without a name, so root needs another one. The
server's data, settings and locks are in ``embedded_server.py``.
"""

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self


class Account(NamedTuple):
    """A way to run a program under an account that PostgreSQL accepts.

    Attributes:
        uid, gid: the owner of the server's files.
        prefix: words to put before the command.
        keywords: arguments of ``subprocess.run``.
    """

    uid: int
    gid: int
    prefix: Sequence[str] = ()
    keywords: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def own(cls) -> Self:
        """The account of this process."""
        return cls(os.geteuid(), os.getegid())

    def take_over(self, paths: Iterable[Path]) -> None:
        """Make this account the owner of each path that has another one, and of all inside it."""
        for top in paths:
            if top.lstat().st_uid != self.uid:
                # The top comes last, so that the next start continues after an interruption.
                for path in (*top.rglob("*"), top):
                    with contextlib.suppress(PermissionError, FileNotFoundError):
                        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def _as_user(uid: int, gid: int) -> Account:
    return Account(uid, gid, keywords={"user": uid, "group": gid, "extra_groups": []})


def candidates(home: Path) -> Iterator[Account]:
    """Accounts to try for the server of ``home``, best first; only root needs more than one."""
    own = Account.own()
    if own.uid != 0:
        yield own
    # The owner of the home, so that `sudo` does not take over a user's data.
    elif (owner := home.stat()).st_uid != 0:
        yield _as_user(owner.st_uid, owner.st_gid)
    # A user namespace: another uid inside it, without any privilege. The files stay ours, so a
    # checkout under /root (0700) works and no other user gets access. Forbidden in Docker and on
    # some hardened machines.
    nobody = pwd.getpwnam("nobody")
    inside = [f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
    yield Account(own.uid, own.gid, ["unshare", "--user", *inside, "--"])
    if own.uid == 0:
        yield _as_user(nobody.pw_uid, nobody.pw_gid)
        # Also with the one capability that enters closed folders, for root in Docker under /root.
        other = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        capability = ["--inh-caps=-all,+dac_override", "--ambient-caps=+dac_override"]
        yield Account(nobody.pw_uid, nobody.pw_gid, ["setpriv", *other, *capability, "--"])


def spawn(command: Sequence[str], account: Account, lock: int, log: Path) -> None:
    """Start a command that outlives this process and holds ``lock`` while it runs."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))  # keeps the logs of two runs
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    try:
        subprocess.run(
            # The shell exits at once, so init adopts the command: it leaves no zombie here.
            ["/bin/sh", "-c", '"$@" &', "sh", *account.prefix, *command],
            **account.keywords,
            check=True,
            cwd="/",
            env=_environment(),
            pass_fds=[lock],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    finally:
        os.close(output)


def run(command: Sequence[str], account: Account, *locks: int) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it holds ``locks`` even if this process ends first."""
    return subprocess.run(
        [*account.prefix, *command],
        **account.keywords,
        check=False,
        cwd="/",
        env=_environment(),
        pass_fds=locks,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )


def _environment() -> dict[str, str]:
    """The environment of child processes: no PG* variable, and no secret of ours."""
    passed = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in passed if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC", "PYTHONPATH": str(Path(__file__).parents[2])}
