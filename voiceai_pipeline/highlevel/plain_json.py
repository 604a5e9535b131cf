"""JSON that every library reads and writes alike, as that of most items is."""

from typing import Final

import msgspec


def _ordinary(number: str) -> float:
    """A float that all libraries write alike; they differ in how they write exponents."""
    value = float(number)
    if value and not 1e-4 <= abs(value) < 1e16:
        raise ValueError("a number out of the ordinary")
    return value


DECODER: Final = msgspec.json.Decoder(float_hook=_ordinary)
"""Raises for what is read in different ways."""

ENCODER: Final = msgspec.json.Encoder(order="sorted")
"""Stored content hashes depend on what it writes."""
