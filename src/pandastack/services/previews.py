"""Previews: who comes without a key, by a link that was given to them or by the name of a sandbox.

A link's token names a sandbox, a port, a workspace, an end and, if its maker wished, the paths that it is
good for, and is signed: it is good for nothing else, and ends with the sandbox. The name of a preview host
holds the sandbox's id, which nobody can guess; its owner shuts these doors with the metadata key `preview`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from pandastack.errors import Forbidden, InvalidRequest, NotFound, SandboxNotFound, Unauthorized
from pandastack.model.account import Caller, Scope
from pandastack.model.clock import Clock
from pandastack.model.sandbox import Sandbox
from pandastack.services.ledger import Ledger
from pandastack.services.ports import DEVTOOLS, check_port, port_of

TTL_DEFAULT, TTL_MOST = 3600, 604_800
PATHS_MOST, PATH_BYTES = 32, 1024
TOKEN_MOST = 64 << 10
SWITCH = "preview"
"""The metadata key that says who is let in without a key."""

_AMBIGUOUS = re.compile(rb"%(?:2e|2f|5c|00|25)|\\|//|[\x00-\x1f\x7f]", re.IGNORECASE)
_DOTS = frozenset((b".", b".."))


class Doors(StrEnum):
    """PUBLIC lets in by host name and by link, PRIVATE by link alone, OFF nobody."""

    PUBLIC = "public"
    PRIVATE = "private"
    OFF = "off"


class PreviewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A link to a port for `ttl_seconds`, good for these paths and all below them; without any for all."""

    port: int
    ttl_seconds: int = TTL_DEFAULT
    paths: tuple[str, ...] = ()


class Preview(Struct, frozen=True):
    """A link that was made."""

    token: str
    sandbox_id: str
    port: int
    paths: tuple[str, ...]
    expires_at: datetime


class Visit(Struct, frozen=True):
    """Where somebody is let, on behalf of whom."""

    caller: Caller
    sandbox_id: str
    port: int


class Previews:
    """Makes links and lets those in who have one."""

    def __init__(self, ledger: Ledger, clock: Clock, secret: bytes) -> None:
        self._ledger = ledger
        self._clock = clock
        self._secret = secret

    async def mint(self, caller: Caller, sandbox_id: str, request: PreviewRequest) -> Preview:
        """A link to a port. Errors: SandboxNotFound, InvalidRequest, Forbidden where previews are off."""
        check_port(request.port)
        if not 0 < request.ttl_seconds <= TTL_MOST:
            raise InvalidRequest(f"ttl_seconds is 1 to {TTL_MOST}; got {request.ttl_seconds}.")
        if len(request.paths) > PATHS_MOST:
            raise InvalidRequest(f"A preview has at most {PATHS_MOST} paths.")
        paths = tuple(_path(path) for path in request.paths)
        found = await self._ledger.find(caller, sandbox_id)
        if doors_of(found) is Doors.OFF:
            raise Forbidden(
                f'The previews of sandbox {sandbox_id} are off: its metadata has "preview": "off".'
            )
        expires = int(self._clock.now().timestamp()) + request.ttl_seconds
        parts = [
            sandbox_id,
            str(request.port),
            str(expires),
            caller.workspace,
            *([",".join(paths)] if paths else []),
        ]
        body = _base64("|".join(parts).encode())
        token = f"{body}.{self._sign(body)}"
        return Preview(token, sandbox_id, request.port, paths, datetime.fromtimestamp(expires, UTC))

    async def admit(self, token: str, path: bytes) -> Visit:
        """Who comes with a link, to a path that begins with a slash and is as it was sent, without query.

        Errors: Unauthorized for a link that is none of ours or has expired, Forbidden for a path that it is
        not good for, SandboxNotFound once the sandbox is gone.
        """
        sandbox_id, port, expires, workspace, paths = self._read(token)
        if self._clock.now().timestamp() >= expires:
            raise Unauthorized("The preview link has expired: ask for another.")
        if paths and not any(_within(path, allowed.encode()) for allowed in paths):
            raise Forbidden("The preview link is not good for this path.")
        found = await self._ledger.find_owned(sandbox_id)
        if found.workspace != workspace or doors_of(found) is Doors.OFF:
            raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
        return Visit(_guest_of(found), sandbox_id, port)

    def seconds_left(self, token: str) -> int:
        """For how long a link is good. Unauthorized for one that is none of ours."""
        return max(0, self._read(token)[2] - int(self._clock.now().timestamp()))

    async def by_name(self, sandbox_id: str, port: int) -> Visit:
        """Who comes by the name of a preview host. Errors: NotFound."""
        found = await self._ledger.find_owned(sandbox_id)
        if port == DEVTOOLS:
            raise NotFound(f"Port {port} has no name: a browser is reached by a link that was made for it.")
        if doors_of(found) is not Doors.PUBLIC:
            raise NotFound(f"There is no sandbox {sandbox_id}.")
        return Visit(_guest_of(found), sandbox_id, port)

    def _sign(self, body: str) -> str:
        return _base64(hmac.new(self._secret, body.encode(), hashlib.sha256).digest())

    def _read(self, token: str) -> tuple[str, int, int, str, tuple[str, ...]]:
        wrong = Unauthorized("The preview link is not one of this server's.")
        body, dot, signature = token.partition(".")
        if not dot or len(token) > TOKEN_MOST or not token.isascii():
            raise wrong
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            raise wrong
        try:
            parts = b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True).decode().split("|")
            sandbox_id, port, expires, workspace = parts[:4]
            return (
                sandbox_id,
                port_of(port),
                int(expires),
                workspace,
                tuple("".join(parts[4:]).split(",")) if parts[4:] else (),
            )
        except (
            ValueError,
            NotBase64,
            InvalidRequest,
        ) as error:  # signed by somebody who signs other things, too
            raise wrong from error


def doors_of(sandbox: Sandbox) -> Doors:
    """Who is let in without a key; what cannot be understood shuts all doors."""
    word = sandbox.metadata.get(SWITCH, Doors.PUBLIC)
    return Doors(word) if word in {*Doors} else Doors.OFF


def _guest_of(sandbox: Sandbox) -> Caller:
    return Caller(sandbox.workspace, "preview", Scope.USE, "preview")


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _path(path: str) -> str:
    """A path as it is kept in a link: plain, and without a slash at its end."""
    raw = path.encode()
    if (
        not path.startswith("/")
        or len(raw) > PATH_BYTES
        or _AMBIGUOUS.search(raw)
        or set("|,%?#") & set(path)
    ):
        raise InvalidRequest(f"A preview's path is plain and begins with a slash; got {path!r}.")
    if _DOTS.intersection(raw.split(b"/")):
        raise InvalidRequest(f"A preview's path has no dots for parts; got {path!r}.")
    return path.rstrip("/") or "/"


def _within(path: bytes, allowed: bytes) -> bool:
    """Whether all who read this path agree that it is `allowed` or below it."""
    if _AMBIGUOUS.search(path) or not path.startswith(b"/"):
        return False
    plain = unquote_to_bytes(path)
    if _AMBIGUOUS.search(plain) or any(part.split(b";")[0] in _DOTS for part in plain.split(b"/")):
        return False
    return allowed == b"/" or plain == allowed or plain.startswith(allowed + b"/")
