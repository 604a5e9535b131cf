"""A decoder and an encoder of JSON that all libraries treat alike, as they do most items."""

from typing import Final

import msgspec


def _ordinary(number: str) -> float:
    """A float that all libraries write alike; one that needs an exponent is refused."""
    value = float(number)
    if value and not 1e-4 <= abs(value) < 1e16:
        raise ValueError("an unusual number")
    return value


DECODER: Final = msgspec.json.Decoder(float_hook=_ordinary)
"""Raises an error for JSON that libraries read differently."""

ENCODER: Final = msgspec.json.Encoder(order="sorted")
"""Stored content hashes depend on its output, so that must not change."""
