"""Ports of sandboxes: which there are, links to them, and their services through the API's own address."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct
from starlette.types import ASGIApp

from pandastack.api.browsers import browse
from pandastack.api.calls import Api
from pandastack.api.passages import Passage
from pandastack.api.relays import relay_bytes, relay_messages
from pandastack.endpoint import Nothing, Reply
from pandastack.errors import InvalidRequest, NotFound
from pandastack.proxy.head import Head, Site, read_head, without_key
from pandastack.proxy.upgrade import wants_websocket
from pandastack.services.certificates import Certificate, CertificateRequest
from pandastack.services.ports import DEFAULT_LABEL, DEVTOOLS, PortInfo, port_of
from pandastack.services.previews import PreviewRequest

PAGE_COOKIES = frozenset((b"pandastack_session", b"pandastack_form"))
"""Cookies of the dashboard, which may be at the same address."""


EVERYWHERE = frozenset(("0.0.0.0", "::"))  # noqa: S104  # not listened on, but told from others
"""Addresses that one can listen on and nobody be sent to."""


class Exposure(Struct, frozen=True, forbid_unknown_fields=True):
    """A port and its name."""

    port: Annotated[int, Meta(ge=1, le=65_535)]
    label: str = DEFAULT_LABEL


class Link(Struct, frozen=True):
    """A link to a port, which whoever has it may use until `expires_at`."""

    url: str
    token: str
    sandbox_id: str
    port: int
    paths: tuple[str, ...]
    expires_at: datetime


async def list_ports(call: Api[None, Nothing]) -> list[PortInfo]:
    return await call.app.ports.listing(call.caller, call.path["sandbox_id"])


async def expose(call: Api[Exposure, Nothing]) -> PortInfo:
    return await call.app.ports.expose(call.caller, call.path["sandbox_id"], call.body.port, call.body.label)


async def hide(call: Api[None, Nothing]) -> None:
    port = port_of(call.path["port"])
    await call.app.ports.hide(call.caller, call.path["sandbox_id"], port)


async def preview(call: Api[PreviewRequest, Nothing]) -> Reply:
    made = await call.app.previews.mint(call.caller, call.path["sandbox_id"], call.body)
    base = call.app.preview_base or f"{call.connection.url.scheme}://{call.connection.url.netloc}"
    url = f"{base}/v1/p/{made.token}/"
    return Reply(Link(url, made.token, made.sandbox_id, made.port, made.paths, made.expires_at), 200)


async def certify(call: Api[CertificateRequest, Nothing]) -> Certificate:
    made = await call.app.certificates.issue(call.caller, call.path["sandbox_id"], call.body)
    if made.host in EVERYWHERE:
        return msgspec.structs.replace(made, host=call.connection.url.hostname or "localhost")
    return made


async def proxy(call: Api[None, Nothing]) -> ASGIApp | None:
    """Hand a request on to a service in the sandbox, which is woken if it sleeps.

    Whatever method, body and answer; a WebSocket too. The service hears of the caller by `X-Forwarded-…`
    alone, and never of the key.
    """
    sandbox_id, port = call.path["sandbox_id"], port_of(call.path["port"])
    await call.app.sandboxes.get(call.caller, sandbox_id)
    prefix = f"/v1/sandboxes/{quote(sandbox_id)}/proxy/{port}"
    head = _head(call, prefix)
    site = Site(
        sandbox_id, port, *_seen(call), prefix=prefix.encode(), keyed=True, cookies=PAGE_COOKIES
    )  # fmt: skip
    passage = Passage(
        call.app.ports, call.caller, site, head, without_key(head.target), call.app.beat_seconds
    )
    return await _either(call, passage)


async def visit(call: Api[None, Nothing]) -> ASGIApp | None:
    """Hand a request on to the service that a preview link names. No key is needed, the link is one."""
    prefix = f"/v1/p/{call.path['token']}"
    head = _head(call, prefix)
    admitted = await call.app.previews.admit(call.path["token"], head.target.partition(b"?")[0])
    site = Site(
        admitted.sandbox_id, admitted.port, *_seen(call), prefix=prefix.encode(), cookies=PAGE_COOKIES
    )  # fmt: skip
    if admitted.port == DEVTOOLS:
        return await browse(call, admitted, site, head, head.target)
    passage = Passage(call.app.ports, admitted.caller, site, head, head.target, call.app.beat_seconds)
    return await _either(call, passage)


async def connect(call: Api[None, Nothing]) -> None:
    """A connection to a port, as a WebSocket: binary messages are its bytes, and an empty one ends a
    direction.
    """
    port = port_of(call.path["port"])
    async with call.app.ports.reach(call.caller, call.path["sandbox_id"], port) as connection:
        await relay_bytes(call.connection.scope, call.receive, call.send, connection)


async def _either(call: Api[None, Nothing], passage: Passage) -> ASGIApp | None:
    if call.connection.scope["type"] == "http":
        if wants_websocket(passage.head):  # which the server took for something else
            raise InvalidRequest("A WebSocket is asked for in one way only.")
        return passage
    await relay_messages(passage, call.connection.scope, call.receive, call.send)
    return None


def _head(call: Api[None, Nothing], prefix: str) -> Head:
    """The request's head, its target without `prefix`. Errors: InvalidRequest, NotFound."""
    scope = call.connection.scope
    raw, query = scope["raw_path"], scope["query_string"]
    before = prefix.encode()
    if not raw.startswith(before) or raw[len(before) : len(before) + 1] not in (b"", b"/"):
        raise NotFound("There is nothing at this path: write it as it was given.")
    target = (raw[len(before) :] or b"/") + (b"?" + query if query else b"")
    old = scope["http_version"] == "1.0"
    return read_head(scope.get("method", "GET"), target, scope["headers"], old=old)


def _seen(call: Api[None, Nothing]) -> tuple[str, str]:
    """The scheme by which and the address from which the request came."""
    scope = call.connection.scope
    client = scope.get("client")
    return scope["scheme"].replace("ws", "http"), client[0] if client else "unknown"
