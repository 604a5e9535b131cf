"""HighLevel's contract: examples of its answers, and its API's specification.

The examples are ours and in the repository. The specification is HighLevel's and is not: tests that
compare with it are skipped where it is missing.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "data" / "contract"

_OUTSIDE = os.environ.get("VOICEAI_CONTRACT_DIR")
SPECIFICATION = (
    Path(_OUTSIDE) if _OUTSIDE else Path(__file__).resolve().parents[3] / "shared" / "contract"
) / "openapi"

needs_specification = pytest.mark.skipif(
    not SPECIFICATION.is_dir(),
    reason=f"HighLevel's OpenAPI files are not at {SPECIFICATION}; set VOICEAI_CONTRACT_DIR",
)


def example_body(name: str) -> Any:
    """The example body in the file ``name``."""
    return json.loads((EXAMPLES / name).read_text())
