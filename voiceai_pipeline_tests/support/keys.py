"""The key that encrypts the tokens of tests."""

import base64

KEYS = {"test": b"k" * 32}
KEYRING = f"test:{base64.b64encode(KEYS['test']).decode()}"
"""The same key as ``VOICEAI_TOKEN_KEYS`` has it."""
