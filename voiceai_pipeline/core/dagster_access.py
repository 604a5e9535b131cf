"""What the web process and Dagster's UI process agree on: the path, the key's header, the roles.

The web process decides who a request comes from; the UI process believes it because of the key.
"""

from enum import StrEnum
from typing import Final

DAGSTER_PATH: Final = "/dagster"
"""Where Dagster's UI is, in both processes."""

PRIVATE_PREFIX: Final = "x-voiceai-"
"""Headers that only the web process may send: a browser's are dropped."""

KEY_HEADER: Final = PRIVATE_PREFIX + "key"
ROLE_HEADER: Final = PRIVATE_PREFIX + "role"


class Role(StrEnum):
    """What a visitor may do: everything, or look."""

    OPERATOR = "operator"
    ANALYST = "analyst"
