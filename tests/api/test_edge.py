"""What every answer shares, and what is answered where there is nothing."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from pandastack.api import openapi
from pandastack.api.v1 import ENDPOINTS
from pandastack.endpoint import Endpoint
from pandastack.model.account import Scope
from tests.api.conftest import World

pytestmark = pytest.mark.anyio


async def test_a_request_id_is_echoed_or_made(http: httpx2.AsyncClient) -> None:
    echoed = await http.get("/v1/me", headers={"x-request-id": "abc-123"})
    assert echoed.headers["x-request-id"] == "abc-123"
    long = await http.get("/v1/me", headers={"x-request-id": "x" * 100})
    assert long.headers["x-request-id"] == "x" * 64
    for given in ({}, {"x-request-id": "a b"}, {"x-request-id": ""}):
        made = await http.get("/v1/me", headers=given)
        assert re.fullmatch("[0-9a-f]{16}", made.headers["x-request-id"])


async def test_an_error_names_its_request(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/v1/sandboxes/none", headers={"x-request-id": "r-1"})
    assert answer.json()["request_id"] == "r-1"


async def test_other_origins_may_ask(http: httpx2.AsyncClient) -> None:
    preflight = await http.options("/v1/sandboxes")
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-max-age"] == "600"
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    for name in ("authorization", "x-api-key", "x-stub-user", "x-fcs-workspace"):
        assert name in preflight.headers["access-control-allow-headers"]
    assert (await http.get("/v1/me")).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in preflight.headers


async def test_an_unknown_path_and_a_wrong_method(http: httpx2.AsyncClient) -> None:
    unknown = await http.get("/v1/nothing")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    wrong = await http.put("/v1/sandboxes")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET, HEAD, POST" and "GET" in wrong.json()["error"]


@pytest.mark.parametrize(
    "path",
    ["databases", "schedules", "functions", "apps/1"],
)
async def test_what_is_not_there_yet_says_so(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.post(f"/v1/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_supported")
    assert "not yet part of this server" in answer.json()["error"]


async def test_the_server_tells_about_itself_without_a_key(world: World) -> None:
    world.http.headers.pop("authorization")
    assert (await world.http.get("/healthz")).json() == {"status": "ok", "checks": {"database": "ok"}}
    version = (await world.http.get("/version")).json()
    assert version["service"] == "pandastack-api" and re.match(r"\d+\.\d+", version["semver"])
    assert (await world.http.get("/v1/version")).status_code == 401


async def test_figures_are_counted(world: World, box: str) -> None:
    text = (await world.http.get("/metrics")).text
    assert 'pandastack_sandboxes{state="running"} 1.0' in text
    assert 'pandastack_sandbox_creates_total{boot_mode="cold",result="created"} 1.0' in text
    assert 'pandastack_http_requests_total{method="POST",route="/v1/sandboxes",status="201"} 1.0' in text
    assert "pandastack_http_request_duration_seconds_bucket" in text
    assert box not in text


async def test_capabilities_are_honest(http: httpx2.AsyncClient) -> None:
    told = (await http.get("/v1/capabilities")).json()
    assert (told["driver"], told["isolation"]) == ("process", "none")
    assert (
        "apps" in told["absent"]
        and "repl" not in told["absent"]
        and "fork" not in told["absent"]
        and told["sizes"]["max_json_bytes"] == 1 << 20
    )


async def test_the_first_template_of_the_list_can_be_made(world: World) -> None:
    listed = (await world.http.get("/v1/templates")).json()
    assert [template["name"] for template in listed] == ["code-interpreter", "base"]
    await world.create(template=listed[0]["name"])
    one = await world.http.get("/v1/templates/base")
    assert one.json()["memory_mb"] == 512 and one.json()["baked"] is True
    missing = await world.http.get("/v1/templates/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "template.not_found")


async def test_a_template_is_baked_on_demand(http: httpx2.AsyncClient) -> None:
    assert (await http.post("/v1/templates/base/bake")).json()["name"] == "base"
    assert (await http.post("/v1/templates/none/bake")).status_code == 404


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        here = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return here.union(*(references(part) for part in value.values()))
    if isinstance(value, list):
        return set().union(*(references(part) for part in value))
    return set()


async def test_the_document_tells_the_whole_table(http: httpx2.AsyncClient) -> None:
    document: dict[str, Any] = (await http.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    told = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert told == {(openapi.plain(e.path), m) for e in ENDPOINTS for m in openapi.methods_of(e)}
    schemas = document["components"]["schemas"]
    assert {reference.rsplit("/", 1)[1] for reference in references(document)} <= schemas.keys()
    assert schemas["SandboxCreate"]["properties"]["ttl_seconds"]
    names = [
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(names) == len(set(names))


async def test_the_page_needs_nothing_from_elsewhere(http: httpx2.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text and not re.findall(r'(?:src|href)="https?:', page.text)
    for endpoint in ENDPOINTS:
        assert endpoint.path in page.text and endpoint.summary.replace("'", "&#x27;") in page.text


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
def test_every_endpoint_is_told_about(endpoint: Endpoint) -> None:
    assert endpoint.summary and endpoint.tag
    assert (endpoint.scope is Scope.PUBLIC) == (
        endpoint.path in {"/healthz", "/version", "/metrics", "/openapi.json", "/docs"}
        or endpoint.path.startswith("/v1/p/{token}")
    )
    if endpoint.scope is Scope.READ:
        assert endpoint.method == "GET"


async def test_a_bug_is_told_by_its_number_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A host whose report is broken: the traceback is in the log, the caller gets the number to find it."""
    world.control.plane.ground.placement.report.templates.append(None)  # type: ignore[arg-type]  # broken on purpose
    answer = await world.http.post("/v1/sandboxes", json={"template": "none"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal.error")
    assert answer.json()["request_id"] in answer.json()["error"]
    assert "Traceback" not in answer.text
    captured = capsys.readouterr()
    assert "Traceback" in captured.out + captured.err
