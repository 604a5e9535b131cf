"""How often tests repeat what is left to chance: briefly in ``make test``, and as often as
``docs/requirements.md`` asks in ``make soak``.
"""

import os

import pytest

soak = pytest.mark.soak
"""Marks a test that ``make soak`` repeats."""


def repeated(briefly: int, thoroughly: int) -> int:
    """How many times: ``thoroughly`` if VOICEAI_THOROUGH is set, as ``make soak`` does."""
    return thoroughly if os.environ.get("VOICEAI_THOROUGH") else briefly
