"""The OpenAPI 3.1 document and a page to read it, both made from the table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from inspect import cleandoc, getdoc

import msgspec

from pandastack.endpoint import ANY, WEBSOCKET, Endpoint, Nothing
from pandastack.model.account import Scope

JSON = "application/json"
TEMPLATE = "#/components/schemas/{name}"

DESCRIPTION = """
Every sandbox is a microVM of its own, restored from a baked snapshot.

Send `Authorization: Bearer <key>` (or `X-API-Key`). Errors are `{"error": "<sentence>", "code": …,
"retryable": …, "request_id": …}`; one that may be sent again unchanged has `Retry-After`. Every answer
carries `X-Request-Id`.
"""

ERROR: dict[str, object] = {
    "type": "object",
    "title": "Error",
    "required": ["error", "code", "retryable"],
    "properties": {
        "error": {"type": "string", "description": "A sentence for a person."},
        "code": {"type": "string", "description": "For programs, for example sandbox.not_found."},
        "retryable": {"type": "boolean"},
        "details": {"type": "object"},
        "request_id": {"type": "string"},
    },
}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, object]:
    """The whole document."""
    schemas, components = _schemas(endpoints)
    paths: dict[str, dict[str, object]] = {}
    for endpoint in endpoints:
        for method in methods_of(endpoint):
            paths.setdefault(plain(endpoint.path), {})[method] = _operation(endpoint, method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "PandaStack", "version": version, "description": cleandoc(DESCRIPTION)},
        "paths": paths,
        "components": {
            "schemas": components | {"Error": ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}],
    }


def methods_of(endpoint: Endpoint) -> tuple[str, ...]:
    """The methods under which OpenAPI tells of an endpoint."""
    if endpoint.method == ANY:
        return ("get", "head", "post", "put", "patch", "delete")
    return ("get",) if endpoint.method == WEBSOCKET else (endpoint.method.lower(),)


def plain(path: str) -> str:
    """A path as OpenAPI writes it: without the router's own words."""
    return path.replace(":path}", "}")


Schemas = dict[object, dict[str, object]]


def _schemas(endpoints: Iterable[Endpoint]) -> tuple[Schemas, dict[str, object]]:
    kinds: list[object] = []
    for endpoint in endpoints:
        for kind in (endpoint.body, endpoint.answer, endpoint.query):
            if kind is not None and kind not in kinds:
                kinds.append(kind)
    found, components = msgspec.json.schema_components(kinds, schema_hook=_anything, ref_template=TEMPLATE)
    return dict(zip(kinds, found, strict=True)), dict(components)


def _anything(kind: type) -> dict[str, object]:
    """The schema of `object`."""
    if kind is object:
        return {"description": "Any JSON value."}
    raise TypeError(f"{kind} has no place in an API.")


def _operation(endpoint: Endpoint, method: str, schemas: Schemas) -> dict[str, object]:
    words = getdoc(endpoint.handler) or ""
    operation: dict[str, object] = {
        "summary": endpoint.summary,
        "operationId": _name(endpoint, method),
        "tags": [endpoint.tag],
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint)],
        "responses": _responses(endpoint, schemas),
    }
    if words:
        operation["description"] = words
    if endpoint.scope is Scope.PUBLIC:
        operation["security"] = []
    if endpoint.raw_body:
        operation["requestBody"] = {"content": {"application/octet-stream": {}}, "required": True}
    elif endpoint.body is not None:
        operation["requestBody"] = {"content": {JSON: {"schema": schemas[endpoint.body]}}}
    return operation


def _name(endpoint: Endpoint, method: str) -> str:
    named = method if endpoint.method == ANY else endpoint.method.lower()
    return re.sub(r"\W+", "_", f"{named}{plain(endpoint.path)}").strip("_")


def _path_parameters(endpoint: Endpoint) -> list[dict[str, object]]:
    names = re.findall(r"{(\w+)}", plain(endpoint.path))
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, object]]:
    if endpoint.query is Nothing:
        return []
    schema = msgspec.json.schema_components([endpoint.query], ref_template=TEMPLATE)[1][
        endpoint.query.__name__
    ]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def _responses(endpoint: Endpoint, schemas: Schemas) -> dict[str, object]:
    good: dict[str, object] = {"description": "Done."}
    if endpoint.method == WEBSOCKET:
        return {"101": {"description": "A WebSocket."}}
    if endpoint.media != JSON:
        good["content"] = {endpoint.media: {}}
    elif endpoint.answer is not None:
        good["content"] = {JSON: {"schema": schemas[endpoint.answer]}}
    error = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {str(endpoint.status): good, "default": {"description": "Refused or failed.", **error}}


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid #ddd;text-transform:capitalize}
details{border:1px solid #e3e5e8;border-radius:6px;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code{font:14px ui-monospace,monospace}
.m{display:inline-block;min-width:6.5rem;font-weight:600}table{border-collapse:collapse;margin:.4rem 0}
td{border-top:1px solid #8884;padding:.2rem .8rem .2rem 0;vertical-align:top}.q{color:#666}
:root{color-scheme:light dark}
"""


def page(endpoints: Sequence[Endpoint], version: str) -> str:
    """One HTML page, without scripts or anything to fetch."""
    tags = list(dict.fromkeys(endpoint.tag for endpoint in endpoints))
    sections = "".join(
        f"<h2>{escape(tag)}</h2>" + "".join(_details(e) for e in endpoints if e.tag == tag) for tag in tags
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>PandaStack API {escape(version)}</title><style>{STYLE}</style></head><body>"
        f"<h1>PandaStack API <small class=q>{escape(version)}</small></h1>"
        f"<p>{escape(cleandoc(DESCRIPTION))}</p>"
        f'<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>{sections}</body></html>'
    )


def _details(endpoint: Endpoint) -> str:
    rows = [("Needs", f"a key of scope {endpoint.scope.name.lower()}")]
    if endpoint.scope is Scope.PUBLIC:
        rows = [("Needs", "no key")]
    rows += [(f"?{name}", _type(kind)) for name, kind in _hints(endpoint.query)]
    rows += [("body", "bytes")] if endpoint.raw_body else []
    rows += [(f"body.{name}", _type(kind)) for name, kind in _hints(endpoint.body)]
    answer = endpoint.media if endpoint.answer is None else _type(endpoint.answer)
    rows.append((str(endpoint.status), "nothing" if endpoint.status == 204 else answer))
    rows += [(f"{name}", _type(kind)) for name, kind in _hints(endpoint.answer)]
    table = "".join(
        f"<tr><td><code>{escape(a)}</code></td><td><code>{escape(b)}</code></td></tr>" for a, b in rows
    )
    return (
        f"<details><summary><code class=m>{escape(endpoint.method)}</code> "
        f"<code>{escape(endpoint.path)}</code> <span class=q>{escape(endpoint.summary)}</span></summary>"
        f"<table>{table}</table></details>"
    )


def _hints(kind: object) -> list[tuple[str, object]]:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return []
    return [(field.encode_name, field.type) for field in msgspec.structs.fields(kind)]


def _type(kind: object) -> str:
    text = getattr(kind, "__name__", None) if isinstance(kind, type) else None
    return re.sub(r"typing\.|datetime\.|[a-z_]+\.(?=[A-Za-z_]+)", "", text or str(kind))
