"""The asynchronous half against a scripted server."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

import pandastack
from pandastack.client import (
    AsyncClient,
    AsyncConnection,
    AsyncSandbox,
    CreateRetryEvent,
    Settings,
    get_default_async_client,
    set_default_async_client,
)

from .conftest import NOWHERE, SANDBOX, Scripted, sse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(server: Scripted) -> AsyncIterator[AsyncClient]:
    made = AsyncClient("http://h:1", "pds_key", transport=httpx2.MockTransport(server), surroundings=NOWHERE)
    async with made:
        yield made


@pytest.fixture
def sandbox(client: AsyncClient) -> AsyncSandbox:
    return AsyncSandbox.from_dict(SANDBOX, client)


async def test_a_create_sends_key_and_idempotency_key(client: AsyncClient, server: Scripted) -> None:
    server.answers(httpx2.Response(201, json=SANDBOX))
    made = await client.sandboxes.create("base", ttl_seconds=5, env={"A": "b"})
    assert (made.id, made.boot_ms, made.isolation, made.persistent) == ("s1", 42, "emulated", False)
    assert server.path() == "POST /v1/sandboxes"
    assert json.loads(server.asked[0].content) == {"template": "base", "ttl_seconds": 5, "env": {"A": "b"}}
    assert server.asked[0].headers["authorization"] == "Bearer pds_key"
    assert len(server.asked[0].headers["idempotency-key"]) == 32


async def test_without_a_key_nothing_is_sent(server: Scripted) -> None:
    async with AsyncClient(transport=httpx2.MockTransport(server), surroundings=NOWHERE) as client:
        with pytest.raises(pandastack.AuthError, match="PANDASTACK_API_KEY is required"):
            await client.sandboxes.list()
    assert not server.asked


async def test_a_refused_create_is_sent_again_with_the_same_key(server: Scripted) -> None:
    heard: list[CreateRetryEvent] = []
    connection = AsyncConnection(
        Settings("http://h:1", "k"), transport=httpx2.MockTransport(server), jitter=lambda cap: 0.0
    )
    connection.on_create_retry = heard.append
    server.answers(
        httpx2.Response(503, headers={"retry-after": "0"}, json={"error": "full"}),
        httpx2.Response(429, headers={"retry-after": "0.01"}, json={"error": "slow"}),
        httpx2.Response(201, json=SANDBOX),
    )
    await AsyncClient.over(connection).sandboxes.create()
    assert [event.status_code for event in heard] == [503, 429]
    assert [event.attempt for event in heard] == [1, 2]
    assert len({request.headers["idempotency-key"] for request in server.asked}) == 1
    await connection.aclose()


async def test_a_bare_503_is_raised_at_once(client: AsyncClient, server: Scripted) -> None:
    server.answers(httpx2.Response(503, text="upstream"))
    with pytest.raises(pandastack.ServerError):
        await client.sandboxes.create()
    assert len(server.asked) == 1


async def test_a_broken_create_is_never_sent_again(client: AsyncClient, server: Scripted) -> None:
    server.answers(httpx2.ReadError("reset"))
    with pytest.raises(pandastack.ConnectionError, match="reset"):
        await client.sandboxes.create()
    assert len(server.asked) == 1


async def test_a_create_is_given_up(client: AsyncClient, server: Scripted) -> None:
    cancel = asyncio.Event()
    server.answers(httpx2.Response(503, headers={"retry-after": "5"}, json={"error": "full"}))
    client.connection.on_create_retry = lambda event: cancel.set()
    with pytest.raises(pandastack.CreateCancelled, match="after 1 refusals") as caught:
        await client.sandboxes.create(cancel=cancel)
    assert isinstance(caught.value.__cause__, pandastack.ServerError)
    with pytest.raises(pandastack.CreateCancelled, match="before it was sent"):
        await client.sandboxes.create(cancel=cancel)
    assert len(server.asked) == 1


async def test_the_end_of_the_block_destroys(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(204), httpx2.Response(404, json={"error": "gone"}))
    async with sandbox:
        pass
    assert server.path() == "DELETE /v1/sandboxes/s1"
    with pytest.raises(ZeroDivisionError):
        async with sandbox:
            raise ZeroDivisionError
    assert len(server.asked) == 2


async def test_a_failed_cleanup_does_not_hide_the_error(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.ConnectError("down"))
    with pytest.raises(ZeroDivisionError):
        async with sandbox:
            raise ZeroDivisionError
    server.answers(httpx2.ConnectError("down"))
    with pytest.raises(pandastack.APIConnectionError, match="pandastack up"):
        async with sandbox:
            pass


async def test_a_persistent_one_stays(sandbox: AsyncSandbox, server: Scripted) -> None:
    sandbox.persistent = True
    async with sandbox:
        pass
    assert not server.asked


async def test_exec_collects_and_tells(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(
        sse(
            ("stdout", '{"chunk":"a\\n"}'),
            ("stderr", '{"chunk":"e"}'),
            ("stdout", '{"chunk":"b"}'),
            ("exit", '{"exit_code":3,"duration_ms":12}'),
        )
    )
    heard: list[str] = []
    result = await sandbox.exec("x", timeout_seconds=5, cwd="/tmp", stdin="in", on_stdout=heard.append)
    assert (result.stdout, result.stderr, result.exit_code, result.duration_ms) == ("a\nb", "e", 3, 12)
    assert heard == ["a\n", "b"]
    assert server.path() == "POST /v1/sandboxes/s1/exec/stream"
    assert server.asked[0].headers["accept"] == "text/event-stream"
    assert json.loads(server.asked[0].content) == {
        "cmd": "x",
        "timeout_seconds": 5,
        "cwd": "/tmp",
        "stdin": "in",
    }


async def test_exec_checks(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(sse(("stderr", '{"chunk":"no"}'), ("exit", '{"exit_code":1}')))
    with pytest.raises(pandastack.CommandFailed) as caught:
        await sandbox.exec(["false"], check=True)
    assert (caught.value.exit_code, caught.value.stderr) == (1, "no")


async def test_a_deadline_is_a_timeout(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(sse(("error", '{"error":"command timeout: exceeded 1s","code":"command.timeout"}')))
    with pytest.raises(pandastack.SandboxTimeout, match="exceeded 1s"):
        await sandbox.exec_stream("sleep 9", timeout_seconds=1)


async def test_a_cut_stream_is_no_success(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(sse(("stdout", '{"chunk":"half"}')))
    with pytest.raises(pandastack.ExecInterrupted) as caught:
        await sandbox.exec("x")
    assert caught.value.partial_stdout == "half"


async def test_a_stream_that_breaks_keeps_what_came(sandbox: AsyncSandbox, server: Scripted) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b'event: stdout\ndata: {"chunk":"half"}\n\n'
        raise httpx2.ReadError("reset")

    headers = {"content-type": "text/event-stream"}
    server.answers(httpx2.Response(200, headers=headers, content=breaking()))
    with pytest.raises(pandastack.ExecInterrupted) as caught:
        await sandbox.exec("x")
    assert caught.value.partial_stdout == "half"
    server.answers(httpx2.ConnectError("down"))
    with pytest.raises(pandastack.ConnectionError):
        await sandbox.exec("x")


async def test_code_is_a_command(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(sse(("exit", '{"exit_code":0}')))
    await sandbox.run_code("print('it''s')")
    assert json.loads(server.asked[0].content)["cmd"] == ["python3", "-c", "print('it''s')"]


async def test_files_travel_as_they_are(sandbox: AsyncSandbox, server: Scripted, tmp_path: Path) -> None:
    content = bytes(range(256)) * 2000
    local = tmp_path / "local"
    local.write_bytes(content)
    server.answers(httpx2.Response(200, json={"path": "/r", "bytes": len(content)}))
    assert (await sandbox.files.upload(local, "/r", mode=0o600))["bytes"] == len(content)
    assert server.path() == "PUT /v1/sandboxes/s1/fs?path=%2Fr&mode=0600"
    assert await server.asked[0].aread() == content
    server.answers(httpx2.Response(200, content=content), httpx2.Response(200, content=content))
    await sandbox.files.download("/r", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    buffer = io.BytesIO()
    await sandbox.files.download("/r", buffer)
    assert buffer.getvalue() == content


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_a_failed_download_leaves_the_old_file(
    sandbox: AsyncSandbox, server: Scripted, tmp_path: Path
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"half"
        raise httpx2.ReadError("reset")

    local = tmp_path / "local"
    local.write_text("old")
    server.answers(httpx2.Response(200, content=breaking()))
    with pytest.raises(pandastack.ConnectionError):
        await sandbox.files.download("/r", local)
    assert local.read_text() == "old"
    assert names_in(tmp_path) == ["local"]


async def test_text_is_written_as_utf8(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(200, json={}), httpx2.Response(200, content="é".encode()))
    await sandbox.filesystem.write("/a b", "é")
    assert server.asked[0].content == "é".encode()
    assert await sandbox.filesystem.read_text("/a b") == "é"
    assert server.path() == "GET /v1/sandboxes/s1/fs?path=%2Fa+b"


async def test_a_part_of_a_file_is_a_range(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(206, content=b"cd"), httpx2.Response(206, content=b"ef"))
    assert await sandbox.files.read("/f", offset=2, length=2) == b"cd"
    assert await sandbox.files.read("/f", offset=4) == b"ef"
    assert [request.headers["range"] for request in server.asked] == ["bytes=2-3", "bytes=4-"]


async def test_a_tree_is_walked_from_the_top(sandbox: AsyncSandbox, server: Scripted) -> None:
    directory = {"name": "sub", "is_dir": True}
    server.answers(
        httpx2.Response(200, json={"entries": [directory, {"name": "f", "size": 3, "mode": "f"}]}),
        httpx2.Response(200, json={"path": "/r/sub", "entries": None}),
    )
    walked = [
        (where, [d.path for d in dirs], [f.path for f in files])
        async for where, dirs, files in sandbox.files.walk("/r")
    ]
    assert walked == [("/r", ["/r/sub"], ["/r/f"]), ("/r/sub", [], [])]


async def test_what_is_pruned_is_not_walked(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(200, json={"entries": [{"name": "sub", "is_dir": True}]}))
    async for _, directories, _ in sandbox.files.walk("/r"):
        directories.clear()
    assert len(server.asked) == 1


async def test_existence_is_a_question(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(
        httpx2.Response(404, json={"error": "x", "code": "file.not_found"}),
        httpx2.Response(200, json={"name": "f", "size": 1}),
        httpx2.Response(500, json={"error": "x"}),
    )
    assert not await sandbox.files.exists("/f")
    assert len(server.asked) == 1  # a 404 is an answer, it is not asked twice
    assert await sandbox.files.exists("/f")
    with pytest.raises(pandastack.ServerError):
        await sandbox.files.exists("/f")


async def test_file_verbs_have_bodies(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(*[httpx2.Response(204)] * 5)
    await sandbox.files.mkdir("/d", mode=0o700)
    await sandbox.files.move("/d", "/e", user="nobody")
    await sandbox.files.chmod("/e", 0o755)
    await sandbox.files.remove("/e")
    await sandbox.files.remove("/e", recursive=False)
    assert [server.path(index) for index in range(5)] == [
        "POST /v1/sandboxes/s1/fs/mkdir",
        "POST /v1/sandboxes/s1/fs/move",
        "POST /v1/sandboxes/s1/fs/chmod",
        "DELETE /v1/sandboxes/s1/fs?path=%2Fe",
        "DELETE /v1/sandboxes/s1/fs?path=%2Fe&recursive=false",
    ]
    assert json.loads(server.asked[0].content) == {"path": "/d", "mode": "0700"}


async def test_changes_come_as_they_happen(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(sse(("change", '{"name":"a","event":"create"}')))
    async with sandbox.files.watch("/w") as changes:
        assert [change.name async for change in changes] == ["a"]


RUNNING = {"id": "p1", "pid": 7, "command": "sleep 9", "running": True}


def process(fields: dict[str, object]) -> httpx2.Response:
    return httpx2.Response(200, json=fields)


async def test_processes_are_started_found_and_ended(sandbox: AsyncSandbox, server: Scripted) -> None:
    ended = {**RUNNING, "running": False, "exit_code": 143}
    server.answers(
        httpx2.Response(201, json={"process_id": "p1", "pid": 7}),
        process(RUNNING),
        httpx2.Response(204),
        process(RUNNING),
        process(ended),
        httpx2.Response(204),
    )
    async with await sandbox.commands.start(["sleep", "9"]) as sleeper:
        assert sleeper.command == "sleep 9"
        with pytest.raises(pandastack.SandboxTimeout, match="after 0 s: sleep 9"):
            await sleeper.wait(timeout_seconds=0)
        await sleeper.signal("TERM")
        assert await sleeper.wait() == 143
    assert [server.path(index) for index in range(6)] == [
        "POST /v1/sandboxes/s1/processes",
        "GET /v1/sandboxes/s1/processes/p1",
        "POST /v1/sandboxes/s1/processes/p1/signal",
        "GET /v1/sandboxes/s1/processes/p1?wait_seconds=30.0",
        "GET /v1/sandboxes/s1/processes/p1?wait_seconds=30.0",
        "DELETE /v1/sandboxes/s1/processes/p1",
    ]
    assert json.loads(server.asked[0].content) == {"cmd": ["sleep", "9"]}
    assert json.loads(server.asked[2].content) == {"signal": "TERM"}


async def test_a_wait_ends_with_its_deadline(server: Scripted) -> None:
    times = iter([100.0, 100.0, 130.0, 130.75, 131.0])
    connection = AsyncConnection(
        Settings("http://h:1", "k"), transport=httpx2.MockTransport(server), clock=lambda: next(times)
    )
    server.answers(*[process(RUNNING)] * 5)
    sleeper = await AsyncSandbox.from_dict(SANDBOX, AsyncClient.over(connection)).commands.attach("p1")
    with pytest.raises(pandastack.SandboxTimeout, match="after 31 s"):
        await sleeper.wait(timeout_seconds=31)
    waits = [request.url.params.get("wait_seconds") for request in server.asked]
    assert waits == [None, "30.0", "1.0", "0.25", None]
    assert server.asked[1].extensions["timeout"]["read"] == 30.0 + connection.timeout
    await connection.aclose()


async def test_a_process_is_written_to(sandbox: AsyncSandbox, server: Scripted) -> None:
    refusal = {"error": "process p1 takes no more input", "code": "sandbox.invalid_state"}
    server.answers(
        httpx2.Response(201, json={"process_id": "p1", "pid": 7}),
        *[httpx2.Response(204)] * 4,
        httpx2.Response(409, json=refusal),
    )
    reader = await sandbox.commands.start("cat", stdin=True)
    assert json.loads(server.asked[0].content) == {"cmd": "cat", "stdin": True}
    await reader.write("é")
    await reader.write(b"\xff", eof=True)
    await reader.write(io.BytesIO(b"x" * 300_000))
    await reader.close_stdin()
    with pytest.raises(pandastack.BadRequestError, match="no more input"):
        await reader.write(b"late")
    path = "POST /v1/sandboxes/s1/processes/p1/stdin"
    assert [server.path(n) for n in range(1, 6)] == [path, f"{path}?eof=true", path, f"{path}?eof=true", path]
    written = [request.content for request in server.asked[1:5]]
    assert written == ["é".encode(), b"\xff", b"x" * 300_000, b""]
    patience = server.asked[1].extensions["timeout"]
    assert patience["read"] == patience["write"] == 900.0


async def test_a_detached_process_outlives_its_block(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(process(RUNNING))
    async with await sandbox.commands.attach("p1") as sleeper:
        sleeper.detach()
    assert len(server.asked) == 1


async def test_an_unknown_process_is_not_found(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(404, json={"error": "no such process: p/2", "code": "not_found"}))
    with pytest.raises(pandastack.NotFoundError, match="p/2"):
        await sandbox.commands.attach("p/2")
    assert server.path() == "GET /v1/sandboxes/s1/processes/p%2F2"


async def test_output_of_a_process_is_iterated(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(
        process(RUNNING),
        sse(("stdout", '{"chunk":"a"}'), ("stderr", '{"chunk":"b"}'), ("exit", '{"exit_code":0}')),
    )
    writer = await sandbox.commands.attach("p1")
    assert [(piece.stream, piece.text) async for piece in writer] == [("stdout", "a"), ("stderr", "b")]
    assert server.path() == "GET /v1/sandboxes/s1/processes/p1/stream"


async def test_followed_streams_end_with_their_sandbox(sandbox: AsyncSandbox, server: Scripted) -> None:
    gone = '{"error":"gone","code":"sandbox.not_found"}'
    last = '{"time":"t","sandbox_id":"s1","type":"sandbox.deleted"}'
    server.answers(
        sse(("line", '{"line":"one"}'), ("error", gone)),
        sse(("event", last), ("event", last)),
        sse(("error", '{"error":"broken","code":"machine.failed"}')),
    )
    assert [line async for line in sandbox.logs(follow=True)] == ["one"]
    assert [event.type async for event in sandbox.events(follow=True)] == ["sandbox.deleted"]
    with pytest.raises(pandastack.ServerError, match="broken"):
        assert [line async for line in sandbox.logs(follow=True)]


async def test_logs_and_events_come_once_or_live(sandbox: AsyncSandbox, server: Scripted) -> None:
    event = {"time": "t", "sandbox_id": "s1", "type": "sandbox.running", "payload": {"boot_ms": 3}}
    server.answers(
        httpx2.Response(200, text="one\ntwo\n"),
        sse(("open", '{"path":"x"}'), ("line", '{"line":"three\\n"}')),
        httpx2.Response(200, json={"events": [event]}),
        sse(("event", json.dumps(event))),
    )
    assert [line async for line in sandbox.logs(tail=2)] == ["one", "two"]
    assert [line async for line in sandbox.logs(follow=True)] == ["three"]
    assert [each.type async for each in sandbox.events()] == ["sandbox.running"]
    assert [each.payload async for each in sandbox.events(follow=True)] == [{"boot_ms": 3}]
    assert server.path(0) == "GET /v1/sandboxes/s1/logs?stream=both&follow=false&tail=2"


async def test_lifecycle_is_a_dictionary(sandbox: AsyncSandbox, server: Scripted) -> None:
    answer = {"ttl_seconds": 9, "persistent": True, "idle_seconds": 1}
    server.answers(*[httpx2.Response(200, json=answer)] * 3)
    assert (await sandbox.lifecycle())["ttl_seconds"] == 9
    assert dict(await sandbox.set_ttl(9)) == answer
    await sandbox.set_persistent(True)
    assert sandbox.persistent
    assert server.path() == "PATCH /v1/sandboxes/s1/lifecycle"


async def test_refresh_takes_over_what_the_server_says(sandbox: AsyncSandbox, server: Scripted) -> None:
    server.answers(httpx2.Response(200, json={**SANDBOX, "status": "paused"}))
    assert (await sandbox.refresh()) is sandbox
    assert sandbox.status == "paused"


async def test_listings_and_accounts(client: AsyncClient, server: Scripted) -> None:
    server.answers(
        httpx2.Response(200, json={"items": [SANDBOX]}),
        httpx2.Response(200, json=[{"name": "base", "baked": True}]),
        httpx2.Response(200, json={"items": [{"prefix": "pds_1", "label": "ci"}]}),
        httpx2.Response(200, json={"token": "pds_secret", "prefix": "pds_1", "label": "ci"}),
        httpx2.Response(204),
        httpx2.Response(200, json={"user_id": "u"}),
    )
    assert [each.id for each in await client.sandboxes.list()] == ["s1"]
    assert (await client.templates.list())[0].baked
    assert (await client.tokens.list())[0].name == "ci"
    assert (await client.tokens.create("ci", expires_in_days=3)).token == "pds_secret"
    await client.tokens.revoke("pds_1")
    assert (await client.me())["user_id"] == "u"
    assert json.loads(server.asked[3].content) == {"label": "ci", "expires_in_days": 3}


async def test_padding_before_json_is_no_harm(client: AsyncClient, server: Scripted) -> None:
    padded = gzip.compress(b"  \n  " + json.dumps(SANDBOX).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    server.answers(httpx2.Response(200, headers=headers, content=padded))
    assert (await client.sandboxes.get("s/1")).id == "s1"
    assert server.path() == "GET /v1/sandboxes/s%2F1"


async def test_the_default_client_is_one_and_can_be_set(client: AsyncClient, server: Scripted) -> None:
    set_default_async_client(client)
    assert get_default_async_client() is client
    server.answers(httpx2.Response(201, json=SANDBOX), httpx2.Response(200, json=[]))
    assert (await AsyncSandbox.create("base")).id == "s1"
    assert await AsyncSandbox.list() == []
    set_default_async_client(None)
