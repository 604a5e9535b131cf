"""Removes from ``call_logs.raw`` the values that other columns of the row hold: an older version
kept the whole item there. Analysts see no change, because the views reassemble the item
(``database/whole_call.py``).
"""

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls import row_passes
from voiceai_pipeline.calls.row_passes import Keys, RowPass
from voiceai_pipeline.database.tables import call_logs
from voiceai_pipeline.database.whole_call import UNHELD


def store_once(engine: sa.Engine, show: Callable[[int, int], None] | None = None) -> int:
    """Visit every call that may hold values twice; returns how many did.

    Args:
        show: called after each batch with the number of rows visited and the number to visit.
    """
    return row_passes.run(engine, PASSES, show)


def _take_out(db: sa.Connection, keys: Keys) -> int:
    unheld = sa.literal_column(UNHELD, call_logs.c.raw.type)
    is_more = sa.cast(call_logs.c.raw, sa.Text).is_distinct_from(sa.cast(unheld, sa.Text))
    taken = sa.update(call_logs).where(PASSES[0].are(keys), is_more).values(raw=unheld)
    return db.execute(taken).rowcount


PASSES: Final = (RowPass("call_logs.raw", 1, call_logs, call_logs.c.call_id, _take_out),)
