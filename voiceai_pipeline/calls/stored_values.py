"""Takes out of ``call_logs.raw`` what other columns of the row hold: an older version kept the
whole item there. Analysts see no change, for the views put it together again
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
    """Visit every call that may hold values twice; the number of those that did.

    Args:
        show: called with the rows visited and to visit, after each batch.
    """
    return row_passes.run(engine, PASSES, show)


def _take_out(db: sa.Connection, keys: Keys) -> int:
    unheld = sa.literal_column(UNHELD, call_logs.c.raw.type)
    is_more = sa.cast(call_logs.c.raw, sa.Text).is_distinct_from(sa.cast(unheld, sa.Text))
    taken = sa.update(call_logs).where(PASSES[0].are(keys), is_more).values(raw=unheld)
    return db.execute(taken).rowcount


PASSES: Final = (RowPass("call_logs.raw", 1, call_logs, call_logs.c.call_id, _take_out),)
