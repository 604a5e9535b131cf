"""What Dagster's UI shows of an asset's table: its name, its columns and where they come from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


def of_table(
    table: sa.Table,
    lineage: Mapping[str, Sequence[str]] | None = None,
    meaning: Callable[[sa.Column[Any]], str | None] = lambda column: column.comment,
) -> Mapping[str, Any]:
    """The metadata of an asset's table: its name, and its columns with their types and meanings.

    Args:
        lineage: by column, the ``asset.column`` entries that it is computed from.
        meaning: returns a column's description; by default the comment that the database has too.
    """
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type.compile(dialect).lower(),
                meaning(column),
                dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )
    return {
        "dagster/table_name": table.name,
        "dagster/column_schema": schema,
        **(
            {
                "dagster/column_lineage": dg.TableColumnLineage(
                    {
                        column: [
                            dg.TableColumnDep(dg.AssetKey(asset), of)
                            for asset, of in (source.split(".") for source in sources)
                        ]
                        for column, sources in lineage.items()
                    }
                )
            }
            if lineage
            else {}
        ),
    }
