"""Progress bars on stderr: for a sync, read from the ledger while it runs, and for stored rows."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from uuid import UUID

import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.database.engine import database_now


@contextmanager
def progress_bar(
    engine: sa.Engine, days: Sequence[date], user_ids: Sequence[UUID] | None
) -> Iterator[None]:
    """Show on stderr, if it is a terminal, how many users' days the run has finished.

    Args:
        user_ids: the users being synced; None: all.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with engine.begin() as db:
        users = connections.all_connections(db, user_ids)
        since = database_now(db)
    done = threading.Event()
    with _bar() as progress:
        task = progress.add_task("User days", total=len(users) * len(days))

        def follow() -> None:
            while not done.wait(0.5):
                update()

        def update() -> int:
            with contextlib.suppress(sa.exc.SQLAlchemyError), engine.begin() as db:
                rows = ledger.results(db, days=days, user_ids=user_ids)
                finished = sum(1 for row in rows if row.finished_at and row.finished_at >= since)
                progress.update(task, completed=finished)
                return finished
            return 0

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            # Days that were already complete are not read again: the total shrinks to those read.
            progress.update(task, total=update())


@contextmanager
def rows_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many rows are done: call it with the number done and the
    total. Nothing shows before the first call."""
    with _bar() as progress:
        task = progress.add_task(what, visible=False)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=total > 0)

        yield show


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
