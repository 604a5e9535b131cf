"""A real Celery engine on loopback, from the files of ``deploy/celery``: Redis as the broker,
workers and Dagster's daemon, each a process of its own.

Workers are as on machines of their own: each has a user, a DAGSTER_HOME and a VOICEAI_HOME of its
own, and reaches the databases over TCP. Only root can start processes of other users; without it,
all are of one.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline_tests.support.ports import free_port

FILES: Final = PROJECT / "deploy" / "celery"

_FIRST_UID: Final = 20_001
_CAN_CHANGE_USER: Final = os.geteuid() == 0 and shutil.which("setpriv") is not None


@dataclass
class CeleryEngine:
    """The engine at work.

    Attributes:
        home: DAGSTER_HOME.
        environment: of every process; a worker's has homes of its own.
        config: of the Dagster instance.
    """

    home: Path
    environment: Mapping[str, str]
    config: dict[str, Any]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str, **extra: str) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; its output is in ``home``."""
        log = self.home / f"{len(self.started)}-{Path(command[0]).name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=FILES,
                env={**self.environment, **extra},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def add_worker(self) -> subprocess.Popen[bytes]:
        """A worker for two runs at a time, as ``celery/voiceai-worker.service`` starts it."""
        number = len(self.workers)
        folder = self.home / f"worker-{number}"
        write_config(self.config, folder)
        uid = _FIRST_UID + number
        if _CAN_CHANGE_USER:
            for path in (folder, *folder.iterdir()):
                os.chown(path, uid, uid)
        worker = self.start(
            *(_as_user(uid) if _CAN_CHANGE_USER else ()),
            *(sys.executable, "-m", "celery", "--app", "worker", "worker", "--concurrency", "2"),
            *("--prefetch-multiplier", "1", "--queues", "dagster", "--hostname", f"w{number}@%h"),
            *("--without-mingle", "--without-gossip", "--loglevel", "WARNING"),
            **dict.fromkeys(("DAGSTER_HOME", "VOICEAI_HOME", "HOME"), str(folder)),
            USER=f"worker-{number}",
        )
        self.workers.append(worker)
        return worker

    def worker_of(self, pid: int) -> subprocess.Popen[bytes]:
        """The worker that a process of a run belongs to."""
        group = os.getpgid(pid)
        (worker,) = [one for one in self.workers if one.pid == group]
        return worker

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL a worker with everything in it, as a lost machine."""
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def launch(self, job: str, tags: str) -> None:
        """Queue a run of a job, as a schedule does.

        Args:
            tags: as JSON.
        """
        command = (
            "-m",
            "dagster",
            "job",
            "launch",
            "--workspace",
            str(self.home / "workspace.yaml"),
        )
        subprocess.run(
            [sys.executable, *command, "--job", job, "--tags", tags],
            cwd=self.home,
            env=dict(self.environment),
            check=True,
            capture_output=True,
        )

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def write_config(config: Mapping[str, Any], home: Path) -> None:
    """Make ``home`` a DAGSTER_HOME."""
    home.mkdir()
    storage = config["local_artifact_storage"] | {"config": {"base_dir": str(home / "artifacts")}}
    own = {**config, "local_artifact_storage": storage}
    (home / "dagster.yaml").write_text(yaml.safe_dump(own))


def _as_user(uid: int) -> list[str]:
    """The words before a command that run it as a user who may read what root may, since the
    interpreter may be in a closed folder, and write nothing of others."""
    only = "-all,+dac_read_search"
    who = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return ["setpriv", *who, f"--inh-caps={only}", f"--ambient-caps={only}", "--"]


@contextmanager
def celery_engine(home: Path, environment: Mapping[str, str]) -> Iterator[CeleryEngine]:
    """Broker, two workers and the daemon.

    Args:
        environment: the variables of a run.
    """
    config = yaml.safe_load((FILES / "dagster.yaml").read_text())
    write_config(config, home)
    shutil.copy(FILES / "workspace.yaml", home)
    port = free_port()
    engine = CeleryEngine(
        home,
        {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
            "DAGSTER_HOME": str(home),
            "DAGSTER_CELERY_BROKER_URL": f"redis://127.0.0.1:{port}/0",
            **environment,
        },
        config,
    )
    try:
        engine.start(
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", str(home), "--appendonly", "no"),
        )
        for _ in range(2):
            engine.add_worker()
        engine.start(
            *(sys.executable, "-m", "dagster._daemon", "run"),
            *("--workspace", str(home / "workspace.yaml")),
        )
        yield engine
    finally:
        engine.end()
