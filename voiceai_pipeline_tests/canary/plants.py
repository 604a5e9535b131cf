"""A leak on every surface, each in another encoding, to see that the scan finds it."""

import base64
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import dagster as dg
import psycopg

from voiceai_pipeline_tests.canary.canaries import CANARIES
from voiceai_pipeline_tests.canary.surfaces import Machine

ENCODINGS: Final[dict[str, Callable[[str], str]]] = {
    "plain": str,
    "prefix": lambda text: text[:12],
    "base64": lambda text: base64.b64encode(f"Bearer {text}.x".encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(f"x:{text}".encode()).decode(),
    "urlencoded": lambda text: quote(text, safe=""),
    "json": lambda text: json.dumps({"a": json.dumps(text)}),
    "hex": lambda text: f"x{text}".encode().hex(),
}

PLANTED: Final = "header value"
"""The canary that is planted; nothing of the product may have it anywhere."""


def leak(encoding: str) -> str:
    return f"see {ENCODINGS[encoding](CANARIES[PLANTED])} there"


@contextmanager
def planted(machine: Machine, instance: dg.DagsterInstance, folder: Path) -> Iterator[Machine]:
    """The machine with a leak on every surface."""
    dagsters = machine.home / "dagster"
    for place, content in {
        dagsters / "compute_logs" / "leak.out": leak("base64").encode(),
        dagsters / "storage" / "leak": pickle.dumps({"token": leak("plain")}),
        machine.work / "leak.log": leak("hex").encode(),
        machine.temporary / "leak.tmp": leak("urlencoded").encode(),
        machine.home / "spool" / "leak.json": leak("json").encode(),
        machine.work / "core.123": b"\x7fELF\0\0" + leak("prefix").encode(),
    }.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (run, *_) = instance.get_runs(limit=1)
    instance.add_run_tags(run.run_id, {"leak": leak("plain")})
    with ExitStack() as stack:
        theirs = stack.enter_context(psycopg.connect(machine.dagsters))
        theirs.execute("INSERT INTO kvs (key, value) VALUES ('leak', %s)", [leak("base64url")])
        theirs.commit()
        ours = stack.enter_context(psycopg.connect(machine.ours))
        ours.execute("SELECT %s::text", [leak("hex")])
        ours.execute(f"UPDATE voiceai_agents SET name = '{leak('json')}'")  # type: ignore[arg-type]  # noqa: S608
        ours.commit()
        ours.execute(f"SELECT '{leak('plain')}'")  # type: ignore[arg-type]
        sleeper = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", "input()", leak("prefix")],
                stdin=subprocess.PIPE,
                env={"LEAK": leak("base64")},
            )
        )
        stack.callback(sleeper.kill)
        yield replace(
            machine,
            children=[*machine.children, sleeper.pid],
            repository=_repository(folder / "repository"),
            wheel=_wheel(folder / "leak.whl"),
        )


def _repository(folder: Path) -> Path:
    """One whose newest commit no longer has the leak."""
    folder.mkdir(parents=True)
    for content in (leak("urlencoded"), "nothing"):
        (folder / "fixture").write_text(content)
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            named = ["-c", "user.name=a", "-c", "user.email=a@example.test"]
            subprocess.run(["/usr/bin/env", "git", *named, *words], cwd=folder, check=True)
    return folder


def _wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fixture.json", leak("base64"))
    return path
