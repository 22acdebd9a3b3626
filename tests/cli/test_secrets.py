"""`pandastack secrets`, and the same of the SDK and over HTTP, against a whole server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest
from tests.cli.conftest import Run, program_of
from tests.wire.conftest import Server

from pandastack import AsyncClient, Client
from pandastack.errors import Conflict, InvalidRequest, NotSupported, PandastackError

VALUE = "sk-live-nobody-sees-this"
HOSTS = ["api.example.com", "*.api.example.com"]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(api_url=server.url, api_key=server.token) as client:
        yield client


@pytest.fixture
def box(client: Client) -> Iterator[str]:
    with client.sandboxes.create("base") as sandbox:
        yield sandbox.id


with_networks = pytest.mark.parametrize("server", [pytest.param("qemu", marks=pytest.mark.vm)], indirect=True)
"""Where machines have networks of their own."""


@pytest.mark.parametrize("server", ["process"], indirect=True)
def test_without_networks_secrets_are_refused_and_nothing_is_kept(
    server: Server, client: Client, box: str, pandastack: Run
) -> None:
    sandbox = client.sandboxes.get(box)
    with pytest.raises(NotSupported, match="doctor"):
        sandbox.set_secret("TOKEN", VALUE, HOSTS)
    with pytest.raises(NotSupported):
        client.sandboxes.create("base", secrets={"TOKEN": {"value": VALUE, "hosts": HOSTS}})
    pandastack("secrets", "set", box, "TOKEN", "--host", "a.example", status=1, stdin=VALUE)
    sandbox.remove_secret("TOKEN")
    assert sandbox.secrets() == []
    assert VALUE not in server.log()


@with_networks
def test_the_commands_set_list_and_remove(box: str, server: Server) -> None:
    pandastack = program_of(server, MINE=VALUE, TOKEN=VALUE)
    placeholder = pandastack("secrets", "set", box, "TOKEN", "--host", HOSTS[0], stdin=f"{VALUE}\n").stdout
    named = ("--host", HOSTS[0], "--header", "X-Api-Key", "--from-env", "MINE")
    pandastack("secrets", "set", box, "OTHER", *named)
    assert "MISSING" in pandastack("secrets", "set", box, "X", *named[:-1], "MISSING", status=2).stderr
    told = json.loads(pandastack("--json", "secrets", "list", box).stdout)
    assert [(each["name"], each["hosts"], each["headers"]) for each in told] == [
        ("OTHER", HOSTS[:1], ["x-api-key"]),
        ("TOKEN", HOSTS[:1], []),
    ]
    assert told[1]["placeholder"] == placeholder.strip()
    shown = pandastack("sandbox", "exec", box, "--", "printenv", "TOKEN").stdout
    assert shown == placeholder
    pandastack("secrets", "rm", box, "TOKEN")
    pandastack("secrets", "rm", box, "TOKEN")
    assert "TOKEN" not in pandastack("secrets", "list", box).stdout
    option = f"TOKEN={','.join(HOSTS)}"
    made = pandastack("sandbox", "create", "-t", "base", "--secret", option).stdout.strip()
    assert placeholder != pandastack("sandbox", "exec", made, "--", "printenv", "TOKEN").stdout != VALUE
    pandastack("sandbox", "rm", made)
    assert VALUE not in server.log()


@with_networks
def test_what_cannot_be_is_refused_in_words_without_the_value(client: Client, box: str) -> None:
    sandbox = client.sandboxes.get(box)
    for name, value, hosts in (
        ("NOT-A-NAME", VALUE, HOSTS),
        ("TOKEN", f"{VALUE}\nX: y", HOSTS),
        ("TOKEN", "", HOSTS),
        ("TOKEN", VALUE, []),
        ("TOKEN", VALUE, ["*"]),
        ("TOKEN", VALUE, ["192.0.2.1"]),
    ):
        with pytest.raises(InvalidRequest) as refused:
            sandbox.set_secret(name, value, hosts)
        assert VALUE not in str(refused.value)
    with pytest.raises(InvalidRequest, match="TOKEN"):
        client.sandboxes.create(
            "base", env={"TOKEN": "x"}, secrets={"TOKEN": {"value": VALUE, "hosts": HOSTS}}
        )
    sandbox.pause()
    with pytest.raises(Conflict, match="resume"):
        sandbox.set_secret("TOKEN", VALUE, HOSTS)
    sandbox.resume()
    assert sandbox.secrets() == []


@with_networks
def test_a_repeated_create_is_told_by_the_value_too(server: Server, client: Client) -> None:
    headers = {"authorization": f"Bearer {server.token}", "idempotency-key": "secret-create"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http:
        wish = {"value": VALUE, "hosts": HOSTS}
        made, again, other = (
            http.post("/v1/sandboxes", json={"template": "base", "secrets": {"TOKEN": each}})
            for each in (wish, wish, {**wish, "value": f"{VALUE}-2"})
        )
        audit = http.get("/v1/audit").text
    assert made.json()["id"] == again.json()["id"] and other.status_code == 422, other.text
    client.sandboxes.get(made.json()["id"]).kill()
    assert VALUE not in made.text + other.text + audit
    for path in (server.home / "state").rglob("*"):
        if path.is_file():
            assert VALUE.encode() not in path.read_bytes(), path
    for key in ("secrets.key", "egress.ca"):
        assert (server.home / "state" / key).stat().st_mode & 0o777 == 0o600


@with_networks
@pytest.mark.anyio
async def test_the_asynchronous_sdk_has_the_same_verbs(server: Server) -> None:
    async with AsyncClient(api_url=server.url, api_key=server.token) as client:
        sandbox = await client.sandboxes.create("base", secrets={"A": {"value": VALUE, "hosts": HOSTS}})
        try:
            (first,) = await sandbox.secrets()
            again = await sandbox.set_secret("A", f"{VALUE}2", HOSTS[:1])
            assert (again["placeholder"], again["hosts"]) == (first["placeholder"], HOSTS[:1])
            await sandbox.remove_secret("A")
            assert await sandbox.secrets() == []
            with pytest.raises(PandastackError):
                await sandbox.set_secret("A", "", HOSTS)
        finally:
            await sandbox.kill()
