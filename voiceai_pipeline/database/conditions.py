"""Conditions of queries that SQLAlchemy has no short form for."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY


def is_one_of(column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
    """SQL condition: the column has one of these values, however many they are. ``in_`` binds each
    of them, and a statement has 65,535 parameters at most."""
    return column == sa.any_(sa.literal(list(values), ARRAY(column.type)))
