"""The command line with a real database and the sandbox over HTTP.

Most commands run in this process, through the same ``main`` as the program. Interactive ones, and
those that set the environment, run as real processes.
"""

import base64
import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import requests
import sqlalchemy as sa

from voiceai_pipeline.cli import main
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_CLIENT_SECRET,
)
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.up import PROGRAM, clean_environment

CANARIES = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET, "hunter2")
OTHER_KEYRING = f"test:{base64.b64encode(b'o' * 32).decode()}"
A_DAY, NEXT_DAY = "2025-03-03", "2025-03-04"


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    def __post_init__(self) -> None:
        text = self.out + self.err
        assert "Traceback" not in text
        assert not [canary for canary in CANARIES if canary in text]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Program:
    """``voiceai-pipeline`` with a database, the sandbox as HighLevel, and a home of its own."""

    env: dict[str, str]
    highlevel: RunningSandbox
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = open_engine(Secret(self.env["VOICEAI_DATABASE_URL"]))

    def __call__(self, *words: str, typed: str = "", **env: str) -> Outcome:
        """Run a command in this process; an empty variable counts as unset."""
        with self.monkeypatch.context() as patch:
            for name, value in {**self.env, **env}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["voiceai-pipeline", *words])
            patch.setattr(sys, "stdin", io.StringIO(typed))
            code = 0
            try:
                main.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        said = self.capsys.readouterr()
        return Outcome(code, said.out, said.err)

    def apart(self, *words: str, **env: str) -> Outcome:
        """Run a command as a real process."""
        done = subprocess.run(
            [PROGRAM, *words],
            env=clean_environment(Path(self.env["VOICEAI_HOME"]), **{**self.env, **env}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def on_a_terminal(self, *words: str, **env: str) -> str:
        """What a command shows on a terminal."""
        ours, its = pty.openpty()
        with subprocess.Popen(
            [PROGRAM, *words],
            env=clean_environment(Path(self.env["VOICEAI_HOME"]), **{**self.env, **env}),
            stdin=its,
            stdout=its,
            stderr=its,
        ):
            os.close(its)
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the command has ended
                while part := os.read(ours, 65536):
                    shown += part
        os.close(ours)
        return shown.decode().replace("\r\n", "\n")

    @contextlib.contextmanager
    def talking(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command that is still running."""
        with subprocess.Popen(
            [PROGRAM, *words],
            env=clean_environment(Path(self.env["VOICEAI_HOME"]), **self.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def connect(self, *names: str) -> list[UUID]:
        """Connect demo users, as the browser would."""
        client = HighLevelClient(Settings.load(self.env).highlevel)
        with client, contextlib.closing(requests.Session()) as browser:
            consent = Consent(self.engine, TokenVault(KEYS), client)
            connector = Connector(self.engine, client, consent, browser)
            return [connector(name).user.id for name in names]

    def add(self, *names: str) -> None:
        with self.engine.begin() as db:
            for name in names:
                connections.add_user(db, UUID(DEMO[name].id), business_name=name)

    def execute(self, statement: str, **values: object) -> None:
        with self.engine.begin() as db:
            db.execute(sa.text(statement), values)

    def ask(self, query: str) -> list[Any]:
        with self.engine.begin() as db:
            return [tuple(row) for row in db.execute(sa.text(query))]


def plain(url: Secret) -> str:
    return url.reveal().replace("+psycopg", "")


def tables(url: Secret) -> list[str]:
    with psycopg.connect(plain(url)) as db:
        rows = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in rows]
