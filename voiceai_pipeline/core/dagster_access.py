"""What the web process and Dagster's UI process agree on: the path, the key's header, the roles.

The web process determines who sent a request; the UI process trusts it because of the key.
"""

from enum import StrEnum
from typing import Final

DAGSTER_PATH: Final = "/dagster"
"""Where Dagster's UI is, in both processes."""

PRIVATE_PREFIX: Final = "x-voiceai-"
"""Prefix of headers that only the web process may send; those of a browser are dropped."""

KEY_HEADER: Final = PRIVATE_PREFIX + "key"
ROLE_HEADER: Final = PRIVATE_PREFIX + "role"


class Role(StrEnum):
    """What a visitor may do. OPERATOR: everything. ANALYST: read only."""

    OPERATOR = "operator"
    ANALYST = "analyst"
