"""The surfaces on which a secret could turn up, each as named pieces of bytes."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import psycopg
import requests
from dagster_graphql.schema import create_schema
from graphql import GraphQLObjectType, GraphQLUnionType, get_named_type, is_leaf_type
from graphql.type import GraphQLInterfaceType, GraphQLNamedType, is_required_argument

from voiceai_pipeline.cli.up import PROJECT

Pieces = Iterator[tuple[str, bytes]]
"""Where something stands, and the bytes that stand there."""


@dataclass
class Machine:
    """What a run leaves behind, and where.

    Attributes:
        ours, dagsters: the databases, as libpq reads them.
        home: VOICEAI_HOME.
        temporary: TMPDIR of every process.
        work: the folder in which they run.
        server_log: PostgreSQL's.
        page: the address of the guarded front.
        browser: who is logged in there.
        children: processes that run.
        said: what this process logged and printed.
        repository: a git repository.
        wheel: the built package.
    """

    ours: str
    dagsters: str
    home: Path
    temporary: Path
    work: Path
    server_log: Path
    page: str = ""
    browser: requests.Session = field(default_factory=requests.Session)
    children: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    repository: Path = PROJECT
    wheel: Path | None = None


def rows(url: str, *, but: frozenset[str] = frozenset()) -> Pieces:
    """Every column of every table, by name."""
    with psycopg.connect(url) as db:
        columns = db.execute(
            "SELECT table_schema, table_name, column_name FROM information_schema.columns "
            "JOIN information_schema.tables USING (table_schema, table_name) "
            "WHERE table_type = 'BASE TABLE' "
            "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3"
        ).fetchall()
        for schema, table, column in columns:
            if table not in but:
                values = db.execute(f'SELECT "{column}" FROM "{schema}"."{table}"')  # type: ignore[arg-type]  # noqa: S608
                for (value,) in values:
                    if value is not None:
                        raw = value if isinstance(value, bytes) else str(value).encode()
                        yield f"{table}.{column}", raw


def files(folder: Path, pattern: str = "*") -> Pieces:
    """Every file below a folder: its name and what is in it."""
    for path in sorted(folder.rglob(pattern)):
        with contextlib.suppress(OSError):  # it has gone meanwhile, or is a socket
            if path.is_file():
                yield str(path.relative_to(folder)), path.name.encode() + b"\n" + path.read_bytes()


def dagsters_tables(machine: Machine) -> Pieces:
    return rows(machine.dagsters)


def compute_logs(machine: Machine) -> Pieces:
    return files(machine.home / "dagster" / "compute_logs")


def stored_outputs(machine: Machine) -> Pieces:
    """What IO managers store."""
    return files(machine.home / "dagster" / "storage")


def output(machine: Machine) -> Pieces:
    """What processes print, this one included."""
    yield from files(machine.work, "*.log")
    yield from (("this process", text.encode()) for text in machine.said)


def graphql(machine: Machine) -> Pieces:
    """What Dagster's UI can ask for, through the front."""
    *_, runs = answers = list(_asked(machine, "runsOrError(limit: 25)", 3))
    yield from answers
    for run_id in dict.fromkeys(re.findall(r'"runId": ?"([0-9a-f-]{36})"', runs[1].decode())):
        yield from _asked(machine, f'logsForRun(runId: "{run_id}")', 4)
    for root, depth in _ROOTS:
        yield from _asked(machine, root, depth)


def _asked(machine: Machine, root: str, depth: int) -> Pieces:
    """The answer, without the fields that Dagster declares and cannot fill: it says which."""
    url, without = f"{machine.page}/dagster/graphql", set[str]()
    for _ in range(_MOST_BROKEN):
        query = f"{{ {selection(root, depth, without)} }}"
        answer = machine.browser.post(url, json={"query": query}, timeout=120)
        yield root, answer.content
        body = answer.json()
        if body.get("data"):
            return
        for error in body["errors"]:
            name = [part for part in error["path"] if isinstance(part, str)][-1]
            without.add(name.rpartition("_")[2])
    raise AssertionError(f"{root}: {without} cannot be asked for")


_MOST_BROKEN: Final = 20


_ROOTS: Final = (
    ("runsFeedOrError(limit: 25, view: RUNS)", 4),
    ("assetsOrError(limit: 25)", 4),
    ("assetNodes", 3),
    ("partitionBackfillsOrError(limit: 25)", 4),
    ("instance", 4),
    ("workspaceOrError", 4),
    ("repositoriesOrError", 3),
    (
        'sensorsOrError(repositorySelector: {repositoryName: "__repository__", '
        'repositoryLocationName: "voiceai_pipeline"})',
        5,
    ),
)
"""What the pages of the UI start from, and how deep they look."""


def selection(root: str, depth: int, without: Set[str] = frozenset()) -> str:
    """Everything that can be asked for without an argument from a field of the query, so deep."""
    query = create_schema().graphql_schema.query_type
    assert query is not None
    kind = get_named_type(query.fields[root.partition("(")[0]].type)
    return f"{root} {_selected(kind, depth, without)}"


def _selected(kind: GraphQLNamedType, depth: int, without: Set[str]) -> str:
    parts = ["__typename"]
    if isinstance(kind, GraphQLUnionType):
        # Named apart: fields of the same name may be of different types.
        parts += [
            f"... on {one.name} {_fields(one, depth, without, f'{one.name}_')}"
            for one in kind.types
        ]
        return f"{{ {' '.join(parts)} }}"
    return _fields(kind, depth, without)


def _fields(kind: GraphQLNamedType, depth: int, without: Set[str], prefix: str = "") -> str:
    parts = ["__typename"]
    if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        for name, field_ in kind.fields.items():
            alias = f"{prefix}{name}: {name}" if prefix else name
            inner = get_named_type(field_.type)
            if any(is_required_argument(argument) for argument in field_.args.values()):
                continue
            if name in without:
                continue
            if is_leaf_type(inner):
                parts.append(alias)
            elif depth > 1:
                parts.append(f"{alias} {_selected(inner, depth - 1, without)}")
    return f"{{ {' '.join(parts)} }}"


def environments(machine: Machine) -> Pieces:
    """The variables and command lines of every process that runs, and of those they started."""
    for pid in machine.children:
        started = psutil.Process(pid)
        for process in (started, *started.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                yield "command line", "\n".join(process.cmdline()).encode()
                for name, value in process.environ().items():
                    yield name, value.encode()


def temporary_files(machine: Machine) -> Pieces:
    return files(machine.temporary)


def spool(machine: Machine) -> Pieces:
    """Pairs that wait for the database, and the newest pair of every user."""
    yield from files(machine.home / "spool")
    yield from files(machine.home / "pairs")


def cores_and_pickles(machine: Machine) -> Pieces:
    for folder in (machine.work, machine.home, machine.temporary):
        for pattern in ("core*", "*.pkl", "*.pickle"):
            yield from files(folder, pattern)


def server_log(machine: Machine) -> Pieces:
    """PostgreSQL's log, with every statement and every bind value."""
    yield "server.log", machine.server_log.read_bytes()


def statements(machine: Machine) -> Pieces:
    """What pg_stat_statements keeps: the texts of statements without their values. The embedded
    server has no such extension, but its log has the same texts."""
    with psycopg.connect(machine.ours) as db:
        for (text,) in db.execute("SELECT query FROM pg_stat_activity WHERE query <> ''"):
            yield "pg_stat_activity", text.encode()
        known = db.execute("SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'")
        if known.fetchone() is not None:
            for (text,) in db.execute("SELECT query FROM pg_stat_statements"):
                yield "pg_stat_statements", text.encode()


def tables(machine: Machine) -> Pieces:
    """Every column of our own tables, those with ciphertexts too."""
    return rows(machine.ours)


def history_and_wheel(machine: Machine) -> Pieces:
    """Every object that the repository ever held, and the package."""
    objects = subprocess.run(
        ["/usr/bin/env", "git", "cat-file", "--batch-all-objects", "--batch", "--unordered"],
        cwd=machine.repository,
        capture_output=True,
        check=False,
    )
    yield "git", objects.stdout
    if machine.wheel is not None:
        yield machine.wheel.name, machine.wheel.read_bytes()


def build_wheel(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


SURFACES: Final[dict[str, Callable[[Machine], Pieces]]] = {
    "Dagster's tables": dagsters_tables,
    "compute logs": compute_logs,
    "IO managers": stored_outputs,
    "output of processes": output,
    "GraphQL": graphql,
    "environments and command lines": environments,
    "temporary files": temporary_files,
    "spool and pairs": spool,
    "cores and pickles": cores_and_pickles,
    "PostgreSQL's log": server_log,
    "statements": statements,
    "our tables": tables,
    "git history and wheel": history_and_wheel,
}
