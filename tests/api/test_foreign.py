"""Another workspace's sandboxes and snapshots are as unknown as those that never were."""

from __future__ import annotations

import httpx2
import pytest

from pandastack.api.v1 import ENDPOINTS
from pandastack.endpoint import WEBSOCKET, Endpoint
from tests.api.conftest import World
from tests.api.test_state import held, machines, post

pytestmark = pytest.mark.anyio

OF_ONE = [
    endpoint
    for endpoint in ENDPOINTS
    if endpoint.method != WEBSOCKET and ("{sandbox_id}" in endpoint.path or "{snapshot_id}" in endpoint.path)
]
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
"""Of thirty-two zeros."""
BODIES: dict[str, object] = {
    "exec": {"cmd": "true"},
    "stream": {"cmd": "true"},
    "processes": {"cmd": "true"},
    "signal": {"signal": 15},
    "mkdir": {"path": "/x"},
    "move": {"path": "/x", "target": "/y"},
    "chmod": {"path": "/x", "mode": "644"},
    "metadata": {"a": "b"},
    "rollback": {"snapshot_id": "none"},
    "ports": {"port": 8000},
    "preview": {"port": 8000},
    "preview-token": {"port": 8000},
    "ssh": {"public_key": PUBLIC_KEY},
    "repl": {"code": "1"},
    "sessions": {"language": "python"},
    "run": {"code": "1"},
    "run/stream": {"code": "1"},
    "TOKEN": {"value": "of-somebody", "hosts": ["api.example.com"]},
}


@pytest.mark.parametrize("endpoint", OF_ONE, ids=lambda e: f"{e.method} {e.path}")
async def test_every_endpoint_knows_nothing_of_anothers(
    world: World, box: str, foreigner: httpx2.AsyncClient, endpoint: Endpoint
) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    path = endpoint.path.replace(":path", "")
    path = path.format(
        sandbox_id=box,
        snapshot_id=taken,
        process_id="p",
        port=8000,
        rest="x",
        name="TOKEN",
        context_id="c",
    )
    words = path.rsplit("/", 2)[-2:]
    body = BODIES.get("/".join(words), BODIES.get(words[-1])) if endpoint.body is not None else None
    async with foreigner as http:
        method = "PATCH" if endpoint.method == "ANY" else endpoint.method
        params = {"path": "/x"} if "/fs" in path else {}
        answer = await http.request(method, path, params=params, json=body)
    told = {} if endpoint.method == "HEAD" else answer.json()
    assert answer.status_code == 404, answer.text
    assert told.get("code", "sandbox.not_found") in {"sandbox.not_found", "snapshot.not_found"}
    assert machines(world).keys() == {box} and held(world) == {taken}


async def test_lists_and_creates_know_nothing_of_anothers(
    world: World, box: str, foreigner: httpx2.AsyncClient
) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    async with foreigner as http:
        assert (await http.get("/v1/sandboxes")).json() == []
        assert (await http.get("/v1/snapshots")).json() == {"snapshots": []}
        assert (await http.get(f"/v1/snapshots?sandbox_id={box}")).json() == {"snapshots": []}
        refused = await http.post("/v1/sandboxes", json={"from_snapshot": taken})
        assert (refused.status_code, refused.json()["code"]) == (404, "snapshot.not_found")
        own = (await http.post("/v1/sandboxes", json={"template": "base"})).json()["id"]
        crossed = await http.post(f"/v1/sandboxes/{own}/rollback", json={"snapshot_id": taken})
        assert (crossed.status_code, crossed.json()["code"]) == (404, "snapshot.not_found")
