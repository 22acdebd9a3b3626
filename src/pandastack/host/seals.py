"""Seals over what is exported: who imports a memory has its machine monitor read it, so it must be known who
wrote it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pandastack.errors import ArchiveRefused, InvalidRequest
from pandastack.host.publish import flush

KEY = "archive.key"
"""The file of a state directory with the key of its server."""
KEY_BYTES = 32
SEAL_BYTES = 32


class Seals:
    """HMAC-SHA-256 under the key in the file `own`, which is made when it is first needed. Keys are read each
    time, so that one that is added to the folder `others` counts at once.
    """

    def __init__(self, own: Path, others: Path | None, entropy: Callable[[int], bytes]) -> None:
        self._own = own
        self._others = others
        self._entropy = entropy

    def seal(self, data: bytes) -> bytes:
        """The seal of this server."""
        if not self._own.exists():
            self._make()
        return _seal(_read(self._own), data)

    def check(self, seal: bytes, data: bytes) -> None:
        """ArchiveRefused when it is the seal of no key that this server has."""
        if not any(hmac.compare_digest(_seal(key, data), seal) for key in self._keys()):
            raise ArchiveRefused(
                "The file has no seal of a key that this server has, or its beginning is damaged. If a "
                f"server that you trust has exported it, put the {KEY} of its state directory into the "
                "folder that the setting `archive_keys` names; nobody else's is safe to use."
            )

    def _keys(self) -> Iterator[bytes]:
        others = sorted(self._others.iterdir()) if self._others is not None else []
        for path in (self._own, *others):
            if path.is_file():
                yield _read(path)

    def _make(self) -> None:
        """One of two that are made at once is everybody's."""
        draft = self._own.with_name(f".{KEY}.{os.getpid()}.{self._entropy(4).hex()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._entropy(KEY_BYTES))
            flush(draft)
            with suppress(FileExistsError):
                os.link(draft, self._own)
            flush(self._own.parent)
        finally:
            draft.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InvalidRequest(f"{path} is no key: it has {len(key)} bytes and not {KEY_BYTES}.")
    return key


def _seal(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()
