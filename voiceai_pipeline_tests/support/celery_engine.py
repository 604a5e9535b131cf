"""A real Celery engine on loopback, from the files of ``deploy/celery``: Redis as the broker,
workers and Dagster's daemon, each a process of its own.

All of one user: the embedded server's socket is of whoever started it.
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
from typing import Final

import yaml

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline_tests.support.ports import free_port

FILES: Final = PROJECT / "deploy" / "celery"


@dataclass
class CeleryEngine:
    """The engine at work.

    Attributes:
        home: DAGSTER_HOME.
        environment: of every process; a worker's has a VOICEAI_HOME of its own.
    """

    home: Path
    environment: Mapping[str, str]
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
        folder.mkdir()
        worker = self.start(
            *(sys.executable, "-m", "celery", "--app", "worker", "worker", "--concurrency", "2"),
            *("--prefetch-multiplier", "1", "--queues", "dagster", "--hostname", f"w{number}@%h"),
            *("--without-mingle", "--without-gossip", "--loglevel", "WARNING"),
            VOICEAI_HOME=str(folder),
            HOME=str(folder),
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


@contextmanager
def celery_engine(home: Path, environment: Mapping[str, str]) -> Iterator[CeleryEngine]:
    """Broker, two workers and the daemon.

    Args:
        environment: the variables of a run.
    """
    home.mkdir()
    config = yaml.safe_load((FILES / "dagster.yaml").read_text())
    config["local_artifact_storage"]["config"]["base_dir"] = str(home / "artifacts")
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
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
