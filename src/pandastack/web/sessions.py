"""Who is logged in. In memory, so a restart of the server ends all sessions."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256

from msgspec import Struct

from pandastack.model.clock import Clock

SESSION_SECONDS = 12 * 3600.0
SESSIONS_OF_A_KEY = 8
"""So many browsers may be logged in with one key; the one that came first is logged out by the next."""


class _Session(Struct, frozen=True):
    digest: str
    until: float


class Sessions:
    """Browsers by the names in their cookies. Of a key its digest is kept, never the key."""

    def __init__(self, clock: Clock, new_name: Callable[[], str]) -> None:
        self._clock = clock
        self._new_name = new_name
        self._seal = new_name().encode()
        self._open: dict[str, _Session] = {}

    def begin(self, digest: str) -> str:
        """The name of a new session, which ends by itself after SESSION_SECONDS."""
        self._make_room(digest)
        name = self._new_name()
        self._open[name] = _Session(digest, self._clock.steady() + SESSION_SECONDS)
        return name

    def digest_of(self, name: str) -> str | None:
        """The digest of the key that the session was begun with; None when there is no such session."""
        session = self._open.get(name)
        return session.digest if session is not None and self._clock.steady() < session.until else None

    def end(self, name: str) -> None:
        """Its cookie is worth nothing from now on."""
        self._open.pop(name, None)

    def visit(self) -> str:
        """The name of a browser that has not logged in; nothing is remembered of it."""
        return self._new_name()

    def nonce(self) -> str:
        """A word for one answer that nobody can guess."""
        return self._new_name()

    def form_key(self, name: str) -> str:
        """What a form in this browser carries: a page that cannot read it cannot send the form."""
        return hmac.new(self._seal, name.encode(), sha256).hexdigest()

    def _make_room(self, digest: str) -> None:
        now = self._clock.steady()
        self._open = {name: session for name, session in self._open.items() if now < session.until}
        mine = [name for name, session in self._open.items() if session.digest == digest]
        for name in mine[: max(0, len(mine) + 1 - SESSIONS_OF_A_KEY)]:
            del self._open[name]
