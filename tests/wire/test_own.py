"""What our SDK has beyond the official one, both halves, against a running server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import pandastack
from pandastack import AsyncSandbox, Client, Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.wire, pytest.mark.timeout(120, func_only=True)]


ALL_BYTES = bytes(range(256))


def test_a_command_has_a_place_and_an_environment(client: Client, directory: str) -> None:
    with client.sandboxes.create("base", env={"FROM": "create"}) as sandbox:
        result = sandbox.exec(
            ["sh", "-c", 'echo "$FROM $MORE $PWD $1"; cat', "sh", "a  b"],
            cwd=directory,
            env={"MORE": "exec"},
            stdin="from stdin",
        )
        assert result.stdout == f"create exec {directory} a  b\nfrom stdin"


def test_a_command_runs_as_somebody_else(sandbox: Sandbox) -> None:
    assert sandbox.exec("id -un", user="nobody").stdout == "nobody\n"
    with pytest.raises(pandastack.BadRequestError):
        sandbox.exec("true", user="no-such-user")
    with pytest.raises(pandastack.BadRequestError, match="working directory"):
        sandbox.exec("true", cwd="/no/such/place")


def test_stdin_may_be_long(sandbox: Sandbox) -> None:
    data = "héllo\n" * 200_000
    told = sandbox.exec("sha256sum", stdin=data.encode()).stdout.split()[0]
    assert told == hashlib.sha256(data.encode()).hexdigest()


def test_stdin_may_be_any_bytes(sandbox: Sandbox) -> None:
    result = sandbox.exec("sha256sum", stdin=ALL_BYTES)
    assert result.stdout.split()[0] == hashlib.sha256(ALL_BYTES).hexdigest()
    assert sandbox.exec("sleep 0.3").duration_ms >= 300


def test_code_may_be_longer_than_an_argument(sandbox: Sandbox) -> None:
    assert sandbox.run_code("#" * 300_000 + "\nprint('long')").stdout == "long\n"


async def test_output_comes_while_the_command_runs(async_sandbox: AsyncSandbox) -> None:
    heard: list[float] = []
    await async_sandbox.exec(
        "echo one; sleep 1; echo two", on_stdout=lambda text: heard.append(time.monotonic())
    )
    assert heard[-1] - heard[0] > 0.7


async def test_many_commands_at_once(async_sandbox: AsyncSandbox) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(async_sandbox.exec(f"sleep 0.3; echo {n}")) for n in range(10)]
    assert [task.result().stdout for task in tasks] == [f"{n}\n" for n in range(10)]


async def test_a_client_that_leaves_ends_its_command(async_sandbox: AsyncSandbox) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await async_sandbox.exec("exec sleep 4321")
    for _ in range(50):
        if (await async_sandbox.exec("pgrep -f '[s]leep 4321'")).exit_code == 1:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the command runs on")


def test_a_background_process_is_found_again(client: Client, sandbox: Sandbox) -> None:
    process = sandbox.commands.start("echo first; sleep 1; echo second; sleep 600")
    assert process.pid > 1
    found = client.sandboxes.get(sandbox.id).commands.attach(process.id)
    seen = []
    for piece in found:
        seen.append(piece.text)
        if "second" in piece.text:
            break
    assert "".join(seen) == "first\nsecond\n"
    assert [each.running for each in sandbox.commands.list() if each.id == process.id] == [True]
    with pytest.raises(pandastack.SandboxTimeout):
        process.wait(timeout_seconds=0.5)
    process.signal("TERM")
    assert process.wait(timeout_seconds=10) == 143
    assert process.exit_code == 143
    with pytest.raises(pandastack.NotFoundError):
        sandbox.commands.attach("no-such-process")


def test_a_process_is_written_to(client: Client, sandbox: Sandbox) -> None:
    with sandbox.commands.start("read line; echo $line; sha256sum", stdin=True) as process:
        process.write("first\n")
        found = client.sandboxes.get(sandbox.id).commands.attach(process.id)
        found.write(io.BytesIO(ALL_BYTES * 10_000))
        found.close_stdin()
        assert process.wait(timeout_seconds=30) == 0
        heard = "".join(piece.text for piece in process)
        assert heard.split()[:2] == ["first", hashlib.sha256(ALL_BYTES * 10_000).hexdigest()]
        with pytest.raises(pandastack.BadRequestError, match="takes no more input"):
            process.write("late")


async def test_a_wait_ends_with_the_process_or_its_deadline(async_sandbox: AsyncSandbox) -> None:
    began = time.monotonic()
    async with await async_sandbox.commands.start("sleep 1; exit 5") as process:
        with pytest.raises(pandastack.SandboxTimeout):
            await process.wait(timeout_seconds=0.2)
        assert time.monotonic() - began < 0.9
        assert await process.wait() == 5


def test_a_deadline_reaches_all_that_descends_from_a_command(sandbox: Sandbox) -> None:
    line = """setsid sh -c 'sleep 4322 & sleep 4322' & setsid -w sh -c 'sleep 4322 & exit'; sleep 4322"""
    with pytest.raises(pandastack.SandboxTimeout):
        sandbox.exec(line, timeout_seconds=1)
    assert sandbox.exec("sleep 0.2; pgrep -f '[s]leep 4322'").stdout == ""
    left = sandbox.exec("setsid -w sh -c 'sleep 4323 >/dev/null & echo $!'", timeout_seconds=30).stdout
    assert sandbox.exec(["kill", left.strip()]).exit_code == 0


def test_a_process_ends_with_its_block_unless_detached(sandbox: Sandbox) -> None:
    with sandbox.commands.start(["sleep", "600"]) as ended:
        pass
    assert ended.wait(timeout_seconds=10) == 137
    with sandbox.commands.start(["sleep", "600"]) as left:
        left.detach()
    assert left.refresh().exit_code is None
    left.kill()


def test_files_are_moved_and_removed(sandbox: Sandbox, directory: str) -> None:
    files = sandbox.files
    files.mkdir(f"{directory}/made/deep", mode=0o750)
    assert files.stat(f"{directory}/made/deep").permissions == 0o750
    files.write(f"{directory}/made/file", "x", mode=0o600)
    assert files.stat(f"{directory}/made/file").permissions == 0o600
    files.chmod(f"{directory}/made/file", 0o644)
    assert files.stat(f"{directory}/made/file").permissions == 0o644
    files.move(f"{directory}/made/file", f"{directory}/other/place")
    assert files.read_text(f"{directory}/other/place") == "x"
    files.mkdir(f"{directory}/made/full/of/it")
    with pytest.raises(pandastack.BadRequestError, match="not empty"):
        files.remove(f"{directory}/made", recursive=False)
    files.remove(f"{directory}/made")
    assert not files.exists(f"{directory}/made")
    with pytest.raises(pandastack.NotFoundError):
        files.remove(f"{directory}/made")


def test_parts_of_files(sandbox: Sandbox, directory: str) -> None:
    sandbox.files.write(f"{directory}/f", "0123456789")
    assert sandbox.files.read(f"{directory}/f", offset=2, length=3) == b"234"
    assert sandbox.files.read(f"{directory}/f", offset=8) == b"89"
    assert {entry.path for entry in sandbox.files.listdir(directory, depth=2)} == {f"{directory}/f"}


def test_large_files_stream(sandbox: Sandbox, directory: str, tmp_path: Path) -> None:
    local = tmp_path / "local"
    with local.open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * (1 << 20))
    assert sandbox.files.upload(local, f"{directory}/large")["bytes"] == 64 << 20
    sandbox.files.download(f"{directory}/large", tmp_path / "copy")
    assert _digest(local) == _digest(tmp_path / "copy")
    sandbox.files.upload(io.BytesIO(b"from memory"), f"{directory}/small")
    with sandbox.files.stream(f"{directory}/small") as pieces:
        assert b"".join(pieces) == b"from memory"
    sandbox.files.remove(f"{directory}/large")


async def test_changes_are_seen(async_sandbox: AsyncSandbox, directory: str) -> None:
    async with async_sandbox.files.watch(directory) as changes:
        await async_sandbox.files.write(f"{directory}/seen", "x")
        async with asyncio.timeout(10):
            async for change in changes:
                if change.name == "seen":
                    return


async def test_a_terminal_is_a_terminal(async_sandbox: AsyncSandbox) -> None:
    async with async_sandbox.terminal(rows=30, columns=100, cmd="sh") as terminal, asyncio.timeout(30):
        pieces = aiter(terminal)
        await terminal.write("stty size; tty -s && echo is-a-'tty'\n")
        assert b"30 100" in await _heard_until(pieces, b"is-a-tty")
        await terminal.resize(40, 120)
        await terminal.write("stty size; exit 7\n")
        assert b"40 120" in await _heard_until(pieces, None)
    assert terminal.exit_code == 7


async def _heard_until(pieces: AsyncIterator[bytes], word: bytes | None) -> bytes:
    heard = b""
    async for piece in pieces:
        heard += piece
        if word is not None and word in heard:
            break
    return heard


def test_a_terminal_for_blocking_code(sandbox: Sandbox) -> None:
    with sandbox.terminal(cmd="echo from the terminal") as terminal:
        assert b"from the terminal" in b"".join(terminal)
    assert terminal.exit_code == 0
    gone = Sandbox.from_dict({"id": "no-such-sandbox"}, client=sandbox_client(sandbox))
    with pytest.raises(pandastack.NotFoundError), gone.terminal():
        pass


async def test_a_terminal_by_name_goes_on(async_sandbox: AsyncSandbox) -> None:
    terminals = async_sandbox.terminals
    made = await terminals.create("main", cmd="PS1= exec sh", env={"GIVEN": "kept"}, size=(30, 100))
    assert (made["name"], made["running"]) == ("main", True)
    async with terminals.attach("main") as terminal, asyncio.timeout(30):
        await terminal.write("stty -echo; stty size; x=$GIVEN; echo at-the-'end'\n")
        assert b"30 100" in await _heard_until(aiter(terminal), b"at-the-end")
        assert terminal.is_live and terminal.size == (30, 100)
    async with terminals.attach("main", size=(40, 120)) as terminal, asyncio.timeout(30):
        await terminal.write("stty size; echo it is $x; exit 7\n")
        heard = await _heard_until(aiter(terminal), None)
        assert b"at-the-end" in heard and b"40 120\r\nit is kept" in heard
    assert (terminal.exit_code, terminal.gaps) == (7, 0)
    assert [each["exit_code"] for each in await terminals.list()] == [7]
    with pytest.raises(pandastack.NotFoundError):
        await terminals.get("other")


def test_a_terminal_by_name_for_blocking_code(sandbox: Sandbox) -> None:
    name = sandbox.terminals.create(cmd="echo from the terminal; read line; echo got $line")["name"]
    with sandbox.terminals.attach(name) as terminal:
        terminal.write("this\n")
        assert b"got this" in b"".join(terminal)
    assert terminal.exit_code == 0
    sandbox.terminals.create("endless", cmd="sleep 1000")
    with pytest.raises(pandastack.BadRequestError, match="runs"):
        sandbox.terminals.create("endless")
    with sandbox.terminals.attach("endless", read_only=True) as terminal:
        sandbox.terminals.end("endless")
        assert b"".join(terminal) == b""
    assert terminal.exit_code == 129


def test_history_and_figures(client: Client, sandbox: Sandbox) -> None:
    assert next(sandbox.events()).type == "sandbox.running"
    assert sandbox.metrics()["pid"] > 0
    assert sandbox.metrics()["host_rss_bytes"] > 0
    assert client.boot_stats()["total_samples"] >= 1
    assert "isolation" in client.capabilities()
    assert client.templates.bake("base").baked


def test_a_dead_sandbox_keeps_its_history(client: Client) -> None:
    with client.sandboxes.create("base") as sandbox:
        pass
    assert [event.type for event in sandbox.events()][-1] == "sandbox.deleted"


def test_followed_events_end_with_the_sandbox(client: Client) -> None:
    sandbox = client.sandboxes.create("base")
    seen = []
    for event in sandbox.events(follow=True):
        seen.append(event.type)
        if event.type == "sandbox.running":
            sandbox.kill()
    assert seen[-1] == "sandbox.deleted"


def sandbox_client(sandbox: Sandbox) -> Client:
    return Client.over(sandbox._connection)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
