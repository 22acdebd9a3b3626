"""Credentials, what they may do, and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.conftest import TOKEN, World

pytestmark = pytest.mark.anyio

TOKENS = "/v1/me/tokens"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def make(http: httpx2.AsyncClient, **body: object) -> dict[str, Any]:
    answer = await http.post(TOKENS, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer pds_wrong"}, {"authorization": "Basic abc"}, {"x-api-key": "pds_wrong"}],
)
async def test_without_a_valid_key_nothing_is_told(world: World, headers: dict[str, str]) -> None:
    world.http.headers.pop("authorization")
    for path in ("/v1/sandboxes", "/v1/me", "/v1/sandboxes/x/fs?path=/etc/passwd"):
        answer = await world.http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert isinstance(answer.json()["error"], str) and answer.json()["code"] == "auth.invalid_token"


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, ""),
        ({"authorization": f"bearer {TOKEN}"}, ""),
        ({"x-api-key": TOKEN}, ""),
        ({}, f"?access_token={TOKEN}"),
    ],
)
async def test_a_key_comes_in_one_of_three_ways(world: World, headers: dict[str, str], query: str) -> None:
    world.http.headers.pop("authorization")
    assert (await world.http.get(f"/v1/me{query}", headers=headers)).status_code == 200


async def test_a_key_in_the_query_changes_nothing(world: World) -> None:
    world.http.headers.pop("authorization")
    assert (await world.http.post(f"/v1/sandboxes?access_token={TOKEN}")).status_code == 401


async def test_a_key_in_the_query_is_not_logged(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    await world.http.get(f"/v1/me?access_token={TOKEN}")
    captured = capsys.readouterr()
    assert "/v1/me" in captured.out + captured.err
    assert TOKEN not in captured.out + captured.err


async def test_me_is_the_workspace_and_its_role(http: httpx2.AsyncClient) -> None:
    me = (await http.get("/v1/me")).json()
    assert me["workspace"] == me["current_org"] == me["orgs"][0]["slug"] == "default"
    assert (me["scope"], me["auth_method"], me["token_prefix"]) == ("admin", "token", TOKEN[:12])


async def test_a_token_is_shown_once_and_works_until_revoked(world: World) -> None:
    made = await make(world.http, label="ci")
    assert made["token"].startswith(made["prefix"]) and len(made["token"]) == 36
    listed = (await world.http.get(TOKENS)).json()["items"]
    assert {item["label"] for item in listed} == {"bootstrap", "ci"}
    assert "token" not in listed[0]
    used = await world.http.get("/v1/me", headers=bearer(made["token"]))
    assert used.json()["token_prefix"] == made["prefix"]
    again = {item["label"]: item for item in (await world.http.get(TOKENS)).json()["items"]}
    assert again["ci"]["last_used_at"] and again["ci"]["name"] == "ci"
    assert (await world.http.delete(f"{TOKENS}/{made['prefix']}")).status_code == 204
    assert (await world.http.get("/v1/me", headers=bearer(made["token"]))).status_code == 401
    assert (await world.http.delete(f"{TOKENS}/{made['prefix']}")).status_code == 404


async def test_a_secret_is_nowhere_on_the_disk(world: World) -> None:
    made = await make(world.http, name="quiet")
    files = [file for file in (world.folder / "control").rglob("*") if file.is_file()]
    assert files and not any(made["token"].encode() in file.read_bytes() for file in files)


async def test_a_token_expires(world: World) -> None:
    made = await make(world.http, label="day", expires_in_days=1)
    headers = bearer(made["token"])
    assert (await world.http.get("/v1/me", headers=headers)).status_code == 200
    world.time.passes(86_400)
    assert (await world.http.get("/v1/me", headers=headers)).status_code == 401


async def test_a_scope_allows_what_it_says(world: World, box: str) -> None:
    read = bearer((await make(world.http, label="r", scope="read"))["token"])
    use = bearer((await make(world.http, label="u"))["token"])
    one = f"/v1/sandboxes/{box}"
    for method, path, scope in (
        ("GET", one, "read"),
        ("GET", f"{one}/events", "read"),
        ("GET", f"{one}/fs/dir", "use"),
        ("POST", f"{one}/pause", "use"),
        ("GET", TOKENS, "admin"),
        ("POST", TOKENS, "admin"),
    ):
        allowed = {"read": (200, 403), "use": (403, 200), "admin": (403, 403)}[scope]
        for headers, status in zip((read, use), allowed, strict=True):
            answer = await world.http.request(method, path, headers=headers)
            told = answer.status_code if answer.status_code != 204 else 200
            assert told == (200 if scope == "read" else status), (method, path, headers)
            if told == 403:
                assert answer.json()["code"] == "auth.forbidden" and scope in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [{"label": "x", "scope": "root"}, {"label": 3}, {"expires_in_days": 0}, {"labl": "x"}]
)
async def test_a_token_that_cannot_be_is_refused(http: httpx2.AsyncClient, body: object) -> None:
    assert (await http.post(TOKENS, json=body)).status_code == 400


async def test_the_first_start_makes_a_token_once(idle_world: World) -> None:
    await idle_world.start(bootstrap_token=None)
    first = idle_world.control.first_token
    assert first is not None and first.startswith("pds_")
    assert (await idle_world.http.get("/v1/me", headers=bearer(first))).json()["scope"] == "admin"
    await idle_world.stop()
    await idle_world.start(bootstrap_token=None)
    assert idle_world.control.first_token is None
    assert (await idle_world.http.get("/v1/me", headers=bearer(first))).status_code == 200


async def test_the_state_directory_is_the_owners_alone(world: World) -> None:
    folder: Path = world.folder / "control"
    assert folder.stat().st_mode & 0o077 == 0


async def test_quotas_tell_limits_and_use(world: World, box: str) -> None:
    quotas = (await world.http.get("/v1/quotas")).json()
    assert quotas["workspace"] == "default"
    assert quotas["limits"] == {"sandboxes": 500, "vcpus": None, "memory_mb": None}
    assert quotas["used"] == {"sandboxes": 1, "vcpus": 1, "memory_mb": 512}
