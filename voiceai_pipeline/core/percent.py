"""Percentages rounded half up, as is usual, not half to even as in Python."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Final

SMALL: Final = 20
"""A share of fewer calls than this is not meaningful."""


def percent(part: int, whole: int, decimals: int = 0) -> Decimal:
    """``part`` of ``whole`` in percent; ``whole`` is not 0. Halves round away from 0."""
    exact = Decimal(100 * part) / whole
    return exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
