"""What an export takes: seconds and peak memory, for few calls and for many.

    python benchmarks/export_memory.py [CALLS]

It starts a database server with CALLS invented calls (default 1,000,000; a transcript is about a
kilobyte). Each export runs the program as a process; the kernel reports its peak memory.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.embedded_server import DATABASE
from voiceai_pipeline.database.engine import open_engine

FEW = 10_000
PROGRAM = str(Path(sys.executable).parent / "voiceai-pipeline")
FILL = """
INSERT INTO call_logs (location_id, call_id, agent_id, from_number, started_at, duration_seconds,
    is_trial, summary, transcript, executed_call_actions, raw, content_hash, first_seen_at,
    last_changed_at)
SELECT 'Loc' || n %% 100, 'call' || n, 'agent' || n %% 7, '+15550100000',
    timestamptz '2026-11-01 00:00Z' + n * interval '0.5 second', n %% 600, false, 'A summary.',
    repeat(E'bot: How can I help?\\nhuman: An appointment.\\n', 25), '[{"actionType": "SMS"}]',
    '{}', '', now(), now()
FROM generate_series(1, %s) AS n
"""


def main() -> None:
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"{'calls':>9}  {'export':<18}  {'seconds':>7}  {'peak MB':>7}")  # noqa: T201
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres.hold(Path(folder), durable=False) as server,
    ):
        server.create_database(DATABASE)
        url = server.url(DATABASE)
        engine = open_engine(Secret(url))
        migrate.upgrade(engine)
        engine.dispose()
        for calls in (FEW, many):
            with psycopg.connect(url.replace("+psycopg", "")) as db:
                db.execute("TRUNCATE call_logs")
                db.execute(FILL, [calls])
            for words in ([], ["--content"]):
                for suffix in ("csv", "parquet"):
                    file = Path(folder) / f"calls.{suffix}"
                    seconds, memory = measure(Path(folder), [*words, "-o", str(file)])
                    file.unlink()
                    kind = " ".join([suffix, *words])
                    print(f"{calls:>9,}  {kind:<18}  {seconds:7.1f}  {memory:7.0f}")  # noqa: T201


def measure(home: Path, words: list[str]) -> tuple[float, float]:
    """Run an export of everything; returns its seconds and its peak memory in MB."""
    started = time.perf_counter()
    command = [PROGRAM, "export", "calls", "--from", "2026-11-01", "--to", "2026-11-30", *words]
    child = os.posix_spawn(PROGRAM, command, {**os.environ, "VOICEAI_HOME": str(home)})
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        sys.exit("an export failed")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return time.perf_counter() - started, usage.ru_maxrss / unit


if __name__ == "__main__":
    main()
