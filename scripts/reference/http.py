"""`docs/reference/http.md`: every endpoint, and every value that goes in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from pandastack.api.openapi import plain
from pandastack.api.v1 import ENDPOINTS
from pandastack.endpoint import WEBSOCKET, Endpoint, Nothing
from pandastack.model.account import Scope
from reference.markdown import code, document, table, words_of

WORDS = """Everything below is also at `/openapi.json` of a running server, for programs, and at `/docs`, for
people. Send `Authorization: Bearer <key>` or `X-API-Key: <key>`; the scope of an endpoint is what the key
must allow. Every answer carries `X-Request-Id`. Errors are told in [Errors](errors.md). An endpoint that may
take long sends interim responses, so that a client whose read timeout is 30 seconds waits as long as it
must.

What makes something takes an `Idempotency-Key` (creates, snapshots, imports, forks, fork trees, `at`): the
same key with the same request makes it once, however often it is sent, and the answer that is given again
has `Idempotent-Replayed: true`. With another request it is refused; an import's request is what its snapshot
is called, not the file."""


def page() -> str:
    """The whole page."""
    tags = list(dict.fromkeys(endpoint.tag for endpoint in ENDPOINTS))
    sections = [section(tag, [each for each in ENDPOINTS if each.tag == tag]) for tag in tags]
    return document("HTTP", WORDS, *sections, values())


def section(tag: str, endpoints: list[Endpoint]) -> str:
    """A row an endpoint, and below the table what needs more words."""
    rows = [(place(each), each.summary, scope(each), takes(each), answers(each)) for each in endpoints]
    more = [f"{place(each)}: {words}" for each in endpoints if (words := words_of(each.handler))]
    head = f"## {tag[:1].upper()}{tag[1:]}"
    return "\n\n".join([head, table(("endpoint", "", "scope", "takes", "answers"), rows), *more])


def place(endpoint: Endpoint) -> str:
    method = "GET (WebSocket)" if endpoint.method == WEBSOCKET else endpoint.method
    return code(f"{method} {plain(endpoint.path)}")


def scope(endpoint: Endpoint) -> str:
    return "no key" if endpoint.scope is Scope.PUBLIC else endpoint.scope.name.lower()


def takes(endpoint: Endpoint) -> str:
    """The query's fields and the body."""
    query = [] if endpoint.query is Nothing else [f"?{name}" for name, _, _ in fields(endpoint.query)]
    body = ["bytes"] if endpoint.raw_body else [type_name(endpoint.body)] if endpoint.body else []
    return ", ".join(code(each) for each in (*query, *body))


def answers(endpoint: Endpoint) -> str:
    if endpoint.method == WEBSOCKET:
        return "a WebSocket"
    what = type_name(endpoint.answer) if endpoint.answer else "" if endpoint.status == 204 else endpoint.media
    return f"{endpoint.status} {code(what)}".strip()


def fields(kind: Any) -> Iterator[tuple[str, str, str]]:  # noqa: ANN401  # a struct, or what stands in its place
    """Name on the wire, type and default of each field."""
    for field in msgspec.structs.fields(kind):
        yield field.encode_name, type_name(field.type), _default(field)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT:
        return ""
    return "" if field.default in (None, "", {}) else code(str(field.default))


def type_name(kind: object) -> str:
    """A type as a reader knows it."""
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    text = re.sub(r"typing\.Annotated\[(\w+), .*?\)\]", r"\1", text)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z_])", "", text)
    return re.sub(r"Optional\[(\w+)\]", r"\1 | None", text)


def values() -> str:
    """Each struct that an endpoint takes or gives, once."""
    found: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        for kind in (endpoint.query, endpoint.body, endpoint.answer):
            for struct in structs(kind):
                found.setdefault(struct.__name__, struct)
    parts = [
        "\n\n".join([f"### `{name}`", words_of(kind), table(("field", "type", "default"), _rows(kind))])
        for name, kind in sorted(found.items())
        if kind is not Nothing
    ]
    return "\n\n".join(["## Values", *parts])


def _rows(kind: Any) -> list[tuple[str, str, str]]:  # noqa: ANN401  # a struct type
    return [(code(name), code(of), default) for name, of, default in fields(kind)]


def structs(kind: object) -> Iterator[Any]:
    """A struct, those that its fields hold, and those in a container."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from structs(field.type)
    for argument in getattr(kind, "__args__", ()):
        yield from structs(argument)
