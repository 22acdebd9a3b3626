"""Values sealed for the database: AES-256-GCM under a key that lies beside it, in a file of its own."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pandastack.errors import InternalError

NONCE = 12
"""Bytes; a new one for each value that is sealed."""


class Strongbox:
    """Seals values for the place where they belong: at another one they cannot be opened."""

    def __init__(self, key: bytes, chance: Callable[[int], bytes]) -> None:
        self._key = key
        self._cipher = AESGCM(key)
        self._chance = chance

    def seal(self, value: str, *place: str) -> bytes:
        """The value as nobody without the key can read it."""
        nonce = self._chance(NONCE)
        return nonce + self._cipher.encrypt(nonce, value.encode(), _place(place))

    def open(self, sealed: bytes, *place: str) -> str:
        """The value. Errors: InternalError when it was sealed elsewhere, with another key, or is damaged."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], _place(place)).decode()
        except (InvalidTag, ValueError):
            raise InternalError("A sealed value cannot be opened.") from None

    def mark(self, value: str) -> str:
        """What stands for a value where it is only compared."""
        return hmac.new(self._key, b"mark\0" + value.encode(), "sha256").hexdigest()


def _place(parts: tuple[str, ...]) -> bytes:
    return "|".join(parts).encode()
