"""Where HighLevel's contract lies: examples of its answers and its API's specification. It is not
part of the repository; tests that need it are skipped where it is missing.
"""

import os
from pathlib import Path

import pytest

CONTRACT = Path(
    os.environ.get("VOICEAI_CONTRACT_DIR")
    or Path(__file__).resolve().parents[3] / "shared" / "contract"
)
EXAMPLES = CONTRACT / "examples"

needs_contract = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason=f"no contract at {CONTRACT}; set VOICEAI_CONTRACT_DIR"
)
