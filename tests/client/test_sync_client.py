"""The blocking half. It is generated: what is tested is that it is up to date, blocks, and has the names."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import pandastack
import pandastack.client
from pandastack import Client, Sandbox, get_default_client, set_default_client

from .conftest import NOWHERE, SANDBOX, Scripted, sse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client("http://h:1", "k", transport=httpx2.MockTransport(server), surroundings=NOWHERE) as made:
        set_default_client(made)
        yield made
        set_default_client(None)


def test_the_blocking_half_is_what_unasync_makes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "unasync", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_word_of_asyncio_is_left_in_it() -> None:
    for path in (ROOT / "src" / "pandastack" / "client" / "_sync").glob("*.py"):
        code = path.read_text()
        for word in ("async ", "await ", "Async", "asyncio", "__a"):
            assert word not in code.replace("__all__", "").replace("_async/", ""), f"{word} in {path.name}"


def test_the_program_of_the_tutorial(client: Client, server: Scripted) -> None:
    server.answers(
        httpx2.Response(201, json=SANDBOX),
        httpx2.Response(200, json={"path": "/workspace/cell.py", "bytes": 4}),
        sse(("stdout", '{"chunk":"rows: 3\\n"}'), ("exit", '{"exit_code":0,"duration_ms":8}')),
        httpx2.Response(200, content=b"\x89PNG"),
        httpx2.Response(204),
    )
    with Sandbox.create(template="code-interpreter", ttl_seconds=300) as sandbox:
        assert sandbox.filesystem.write("/workspace/cell.py", "code") == {
            "path": "/workspace/cell.py",
            "bytes": 4,
        }
        assert sandbox.exec("python3 /workspace/cell.py", timeout_seconds=30).stdout == "rows: 3\n"
        assert sandbox.filesystem.read("/workspace/chart.png") == b"\x89PNG"
    assert server.path() == "DELETE /v1/sandboxes/s1"


def test_streams_block(client: Client, server: Scripted) -> None:
    sandbox = Sandbox.from_dict(SANDBOX, client=client)
    server.answers(
        httpx2.Response(200, content=b"x" * 100_000),
        httpx2.Response(200, json={"path": "/f", "bytes": 3}),
        sse(("change", '{"name":"a","event":"create"}')),
        *[httpx2.Response(200, json={"id": "p1", "pid": 7, "running": False, "exit_code": 0})] * 2,
        httpx2.Response(204),
        sse(("stdout", '{"chunk":"a"}')),
    )
    buffer = io.BytesIO()
    sandbox.files.download("/f", buffer)
    assert len(buffer.getvalue()) == 100_000
    sandbox.files.upload(io.BytesIO(b"abc"), "/f")
    with sandbox.files.watch("/") as changes:
        assert next(changes).event == "create"
    process = sandbox.commands.attach("p1")
    assert process.wait() == 0
    process.write(io.BytesIO(b"abc"), eof=True)
    assert server.asked[-1].content == b"abc"
    assert [piece.text for piece in process] == ["a"]


def test_a_create_is_given_up_from_another_thread(server: Scripted) -> None:
    cancel = threading.Event()
    server.answers(httpx2.Response(503, headers={"retry-after": "30"}, json={"error": "full"}))
    client = Client(
        "http://h:1",
        "k",
        transport=httpx2.MockTransport(server),
        surroundings=NOWHERE,
        on_create_retry=lambda event: cancel.set(),
    )
    with client, pytest.raises(pandastack.CreateCancelled):
        client.sandboxes.create(cancel=cancel)


def test_a_cancel_that_does_not_block_is_refused(client: Client, server: Scripted) -> None:
    with pytest.raises(TypeError, match=r"threading\.Event"):
        client.sandboxes.create(cancel="now")  # type: ignore[arg-type]  # what a caller without types may do
    assert not server.asked


OFFICIAL = {
    "Sandbox.create": "template cpu memory_mb metadata ttl_seconds persistent from_snapshot volumes cancel",
    "Sandbox.exec": "self cmd timeout_seconds check",
    "Sandbox.exec_stream": "self cmd on_stdout on_stderr timeout_seconds",
    "Sandbox.run_code": "self code language",
    "Sandbox.logs": "self stream follow",
    "Sandbox.set_ttl": "self seconds",
    "Sandbox.set_persistent": "self persistent",
    "Sandbox.snapshot": "self",
    "Sandbox.fork": "self metadata",
    "Sandbox.fork_tree": "self count metadata",
    "Sandbox.promote": "self cleanup_siblings tree_id",
    "Sandbox.explore": "self candidates",
    "SandboxAPI.fork": "self sandbox_id metadata cancel",
    "SandboxAPI.fork_tree": "self sandbox_id count metadata cancel",
    "SandboxAPI.promote": "self sandbox_id cleanup_siblings tree_id",
    "SnapshotsAPI.list": "self sandbox_id",
    "SnapshotsAPI.get": "self snapshot_id",
    "SnapshotsAPI.delete": "self snapshot_id",
    "Candidate.__init__": "self label cmd fn timeout_s score",
    "BranchOutcome.__init__": "self label sandbox_id ok score exit_code stdout_tail stderr_tail",
    "ExploreResult.__init__": "self winner winner_outcome outcomes tree_id reaped reap_failures errors",
    "SandboxFilesystem.read": "self path",
    "SandboxFilesystem.write": "self path content",
    "SandboxFilesystem.upload": "self local_path remote_path",
    "SandboxFilesystem.download": "self remote_path local_path",
    "SandboxFilesystem.listdir": "self path",
    "SandboxFilesystem.stat": "self path",
    "SandboxFilesystem.exists": "self path",
    "SandboxFilesystem.walk": "self path",
    "SandboxCommands.run": "self cmd timeout",
    "Client.__init__": "self api_url api_key timeout api_base max_create_retry_seconds on_create_retry",
}


@pytest.mark.parametrize(("name", "names"), OFFICIAL.items())
def test_the_official_arguments_are_taken_in_their_order(name: str, names: str) -> None:
    owner, method = name.split(".")
    function = inspect.getattr_static(getattr(pandastack.client, owner), method)
    ours = list(inspect.signature(getattr(function, "__func__", function)).parameters)
    ours = [parameter for parameter in ours if parameter not in ("cls", "env")]
    assert ours[: len(names.split())] == names.split()


def test_every_public_name_can_be_imported() -> None:
    for name in pandastack.__all__:
        assert getattr(pandastack, name) is not None
    for module in ("exceptions", "sandbox", "snapshots", "templates", "tokens"):
        assert getattr(pandastack, module) is sys.modules[f"pandastack.{module}"]
    assert "Sandbox" in dir(pandastack)
    with pytest.raises(AttributeError):
        pandastack.nonsense  # noqa: B018  # the look-up is the test


def test_one_default_client_a_process(client: Client) -> None:
    assert get_default_client() is client
    seen: list[Client] = []
    thread = threading.Thread(target=lambda: seen.append(get_default_client()))
    thread.start()
    thread.join()
    assert seen == [client]


def test_importing_the_package_imports_no_client() -> None:
    program = "import sys, pandastack; print({'httpx2', 'websockets', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_sandbox_shows_as_json_without_its_connection(client: Client) -> None:
    shown = json.loads(json.dumps(Sandbox.from_dict(SANDBOX, client=client).to_dict()))
    assert shown["id"] == "s1"
    assert "_connection" not in shown
