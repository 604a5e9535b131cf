"""A login service as the replaced dashboard has it: publishes public keys, signs logins with the
private ones."""

import base64
import hmac
import json
import time
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted

AUDIENCE = "authenticated"


class LoginService:
    """The service on loopback.

    Attributes:
        is_down: answers 503.
    """

    def __init__(self) -> None:
        self.is_down = False
        self._keys = {"first": generate_private_key(SECP256R1())}
        self._server = Scripted(self._answer)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def jwks_url(self) -> str:
        return f"{self._server.url}/auth/v1/.well-known/jwks.json"

    @property
    def looks(self) -> int:
        """How many times the keys were asked for."""
        return len(self._server.asked)

    def rotate(self, key_id: str) -> None:
        """Withdraw every key and publish a new one."""
        self._keys = {key_id: generate_private_key(SECP256R1())}

    def token(self, subject: object, **claims: Any) -> str:
        """A login of a user, an hour long, signed with the newest key; None leaves a claim out."""
        given = {
            "sub": str(subject),
            "aud": AUDIENCE,
            "exp": int(time.time()) + 3600,
            "role": "authenticated",
            **claims,
        }
        key_id, key = list(self._keys.items())[-1]
        kept = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(kept, key, "ES256", {"kid": key_id})

    def signed_with_the_public_key(self, claims: str) -> str:
        """A token whose secret everyone can read, if HS256 were allowed."""
        public = list(self._keys.values())[-1].public_key()
        secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head = {"alg": "HS256", "typ": "JWT", "kid": list(self._keys)[-1]}
        signed = f"{_text(json.dumps(head).encode())}.{claims}"
        return f"{signed}.{_text(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def jwks(self) -> dict[str, Any]:
        algorithm = jwt.algorithms.ECAlgorithm
        return {
            "keys": [
                {
                    **algorithm.to_jwk(key.public_key(), as_dict=True),
                    **{"kid": key_id, "alg": "ES256", "use": "sig"},
                }
                for key_id, key in self._keys.items()
            ]
        }

    def _answer(self, _asked: Asked) -> Reply:
        return Reply({"error": "down"}, 503) if self.is_down else Reply(self.jwks())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
