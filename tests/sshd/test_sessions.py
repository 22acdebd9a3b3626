"""Commands and shells by SSH, as OpenSSH's own client and asyncssh's run them."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import re
import subprocess
from collections.abc import Coroutine
from pathlib import Path

import asyncssh
import pytest

from pandastack.sshd.limits import WINDOW, Limits
from pandastack.sshd.line import Line
from tests.api.conftest import World
from tests.sshd.conftest import PATIENCE, Opener, Pass, admitted

pytestmark = pytest.mark.anyio

MEGABYTE = 1 << 20


async def gone(world: World, box: str, word: str) -> bool:
    """Whether no process of the sandbox has this word in its arguments any more."""
    for _ in range(100):
        found = await world.exec(box, f"ps ax -o args= | grep -c '[{word[0]}]{word[1:]}'")
        if found["stdout"].strip() == "0":
            return True
        await asyncio.sleep(0.1)
    return False


async def test_a_command(visit: Pass) -> None:
    done = await visit.ssh("echo out; echo err >&2; exit 7")
    assert (done.status, done.out, done.err.strip()) == (7, b"out\n", "err")


async def test_how_it_ended(visit: Pass) -> None:
    """128+n for a signal, as a shell tells it; 127 for what is not there."""
    assert (await visit.ssh("kill -TERM $$")).status == 143
    assert (await visit.ssh("/nonexistent/program")).status == 127
    assert (await visit.ssh("true")).status == 0


async def test_any_bytes_go_through(visit: Pass) -> None:
    data = os.urandom(3 * MEGABYTE)
    done = await visit.ssh("cat", stdin=data)
    assert done.status == 0 and done.out == data
    assert (await visit.ssh("cat; echo end", stdin=b"")).out == b"end\n"


async def test_what_is_no_command(visit: Pass) -> None:
    """It is refused, and the connection goes on."""
    async with visit.connected() as connection:
        for line in ("echo a\0b", "echo " + "x" * 200_000):
            done = await connection.run(line, encoding=None)
            assert done.exit_status == 255 and bytes(done.stderr or b"").startswith(b"pandastack: ")  # type: ignore[arg-type]  # bytes were asked for
        assert (await connection.run("echo fine")).stdout == "fine\n"


async def test_many_at_a_time(visit: Pass) -> None:
    async with visit.connected() as connection:
        done = await asyncio.gather(*(connection.run(f"echo {number}") for number in range(50)))
    assert [each.stdout for each in done] == [f"{number}\n" for number in range(50)]


async def test_a_script_on_stdin(visit: Pass) -> None:
    """As editors start what they need on the other side."""
    script = b'set -e\nread -r line <<X\nhere\nX\necho "$line $((6 * 7))"\nexit 3\n'
    done = await visit.ssh("sh", stdin=script)
    assert (done.status, done.out) == (3, b"here 42\n")
    done = await visit.run("ssh", "-T", "HOST", stdin=b"echo shell; exit 4\n")
    assert done.status == 4 and b"shell\n" in done.out


async def test_what_it_leaves_running_goes_on(visit: Pass, world: World, box: str) -> None:
    word = f"leaves-{box[:8]}"
    done = await visit.ssh(f"nohup sh -c 'sleep 60; : {word}' >/dev/null 2>&1 </dev/null & echo started")
    assert done.out == b"started\n"
    found = await world.exec(box, f"pgrep -f '[{word[0]}]{word[1:]}'")
    assert found["stdout"].strip()
    await world.exec(box, f"pkill -f '[{word[0]}]{word[1:]}'")
    assert await gone(world, box, word)


async def test_a_client_that_goes_ends_its_command(visit: Pass, world: World, box: str) -> None:
    """`ssh … yes | head`, and a connection that is cut."""
    word = f"goes-{box[:8]}"
    process = await asyncio.create_subprocess_exec(
        "ssh", *visit.options, visit.address[0], f"yes {word}", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == f"{word}\n".encode()
    assert not await asyncio.wait_for(_at_once(gone(world, box, word)), PATIENCE)
    process.kill()
    await process.communicate()
    assert await gone(world, box, word)


async def _at_once(looking: Coroutine[None, None, bool]) -> bool:
    """What a look says that is broken off soon."""
    try:
        return await asyncio.wait_for(looking, 0.5)
    except TimeoutError:
        return False


async def test_signals_reach_the_command(visit: Pass) -> None:
    async with visit.connected() as connection:
        line = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
        async with connection.create_process(line) as process:
            assert await process.stdout.readline() == "ready\n"
            process.send_signal("USR1")
            assert await process.stdout.readline() == "caught\n"
            assert (await process.wait()).exit_status == 9
        async with connection.create_process("sleep 60") as process:
            process.send_signal("NONSENSE")
            process.send_signal("KILL")
            assert (await process.wait()).exit_status == 137


async def test_a_terminal(visit: Pass) -> None:
    async with visit.connected() as connection:
        opened = connection.create_process(
            "stty size; echo $TERM; read x; stty size; exit 5", term_type="vt100", term_size=(100, 40)
        )
        async with opened as process:
            assert await process.stdout.readline() == "40 100\r\n"
            assert await process.stdout.readline() == "vt100\r\n"
            process.change_terminal_size(132, 50)
            await asyncio.sleep(0.3)
            process.stdin.write("\n")
            rest = await process.stdout.read()
            assert rest.split() == ["50", "132"]
            assert (await process.wait()).exit_status == 5


async def test_a_login_shell(visit: Pass) -> None:
    async with (
        visit.connected() as connection,
        connection.create_process(term_type="xterm", term_size=(0, 0)) as process,
    ):
        process.stdin.write("echo $((40 + 2)) $TERM; stty size; exit 6\n")
        said = await process.stdout.read()
        assert re.search(r"42 xterm\r\n24 80\r\n", said), said
        assert (await process.wait()).exit_status == 6


async def test_only_words_of_language_are_taken_over(visit: Pass) -> None:
    env = {"LANG": "C.UTF-8", "LC_TIME": "C", "LD_PRELOAD": "/x.so", "BASH_ENV": "/x", "LC_ALL": "a\nb"}
    async with visit.connected(env=env) as connection:
        done = await connection.run("env", check=True)
    names = {line.partition("=")[0] for line in str(done.stdout).splitlines()}
    assert {"LANG", "LC_TIME"} <= names
    assert not {"LD_PRELOAD", "BASH_ENV", "LC_ALL"} & names


async def test_one_of_its_users(world: World, address: tuple[str, int], box: str, tmp_path: Path) -> None:
    visit = await admitted(world, tmp_path / "pass", box, user="nobody")
    assert visit.login == f"nobody+{box}"
    assert (await visit.ssh("id -un")).out == b"nobody\n"


async def test_much_goes_through_both_ways(visit: Pass) -> None:
    """100 MB in and out again."""
    size = 100 * MEGABYTE
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f'head -c {size} /dev/zero | ssh "$@" "{visit.address[0]}" "cat" | sha256sum',
        "sh",
        *visit.options,
        stdout=subprocess.PIPE,
    )
    async with asyncio.timeout(180):
        out, _ = await process.communicate()
    assert out.split()[0].decode() == hashlib.sha256(bytes(size)).hexdigest()


async def test_keys_are_changed_on_the_way(visit: Pass) -> None:
    data = os.urandom(10 * MEGABYTE)
    done = await visit.run("ssh", "-o", "RekeyLimit=1M", "HOST", "cat", stdin=data)
    assert done.status == 0 and done.out == data


async def test_one_that_sleeps_is_woken_once(visit: Pass, world: World, box: str) -> None:
    """By however many who come at a time, and all are served."""
    assert (await world.http.post(f"/v1/sandboxes/{box}/hibernate")).status_code == 200
    done = await asyncio.gather(*(visit.ssh(f"echo {number}") for number in range(5)))
    assert [each.out for each in done] == [b"%d\n" % number for number in range(5)]
    assert [each["type"] for each in await world.events(box)].count("sandbox.woken") == 1


@pytest.mark.parametrize("defended", [True, False])
async def test_a_client_that_does_not_listen(
    world: World, opener: Opener, box: str, tmp_path: Path, *, defended: bool
) -> None:
    """What it does not take is not read from the guest. The control: without that limit it piles up here."""
    limits = Limits() if defended else Limits(untaken=1 << 30, untaken_most=1 << 31)
    async with opener(limits):
        visit = await admitted(world, tmp_path / "pass", box)
        async with visit.connected() as connection:
            opened = connection.create_process("yes", encoding=None, window=(1 << 31) - 1)
            async with opened as process:
                await process.stdout.readexactly(10)
                transport = connection._transport  # what a client's user would never reach for
                assert transport is not None
                transport.pause_reading()
                await asyncio.sleep(2.0)
                most = max(_untaken(each) for each in gc.get_objects() if isinstance(each, Line))
                connection.abort()
    assert (most < 4 * Limits().untaken) is defended, most


async def test_a_command_that_reads_slowly(visit: Pass) -> None:
    """What it has not read yet is the client's to keep: each piece that it reads makes room for as much."""
    async with visit.connected() as connection:
        slowly = "while head -c 65536 > /dev/null; do sleep 0.02; done"
        process = await connection.create_process(slowly, encoding=None)
        process.stdin.write(bytes(64 * MEGABYTE))
        sizes: list[int] = []
        while len(sizes) < 30:
            await asyncio.sleep(0.1)
            lines = [each for each in gc.get_objects() if isinstance(each, Line) and not each.is_closed()]
            sizes.append(max(map(_waiting, lines)))
        connection.abort()
    assert 0 < max(sizes) <= WINDOW


def _waiting(line: Line) -> int:
    """Bytes that came and nobody has taken."""
    return sum(len(data) for channel in line._channels.values() for data, _ in channel._recv_buf)


def _untaken(line: Line) -> int:
    wire = line._wire
    return 0 if wire is None or wire.is_closing() else wire.get_write_buffer_size()


async def test_a_server_that_ends(world: World, opener: Opener, box: str, tmp_path: Path) -> None:
    """Its clients are told, and what they ran ends."""
    word = f"ends-{box[:8]}"
    async with opener(Limits()):
        visit = await admitted(world, tmp_path / "pass", box)
        running = asyncio.create_task(visit.ssh(f"echo on; sleep 60; : {word}"))
        await asyncio.sleep(1.0)
        assert not running.done()
    done = await asyncio.wait_for(running, PATIENCE)
    assert done.status == 255
    assert await gone(world, box, word)


@pytest.mark.parametrize("defended", [True, False])
async def test_requests_without_end(
    world: World, opener: Opener, box: str, tmp_path: Path, *, defended: bool
) -> None:
    """Variables without end are kept only until their client is cut off. The control: without that limit all
    of them are.
    """
    env = {f"V{number}": "x" * 30_000 for number in range(2000)}
    async with opener(Limits() if defended else Limits(unstarted_bytes=1 << 30)):
        visit = await admitted(world, tmp_path / "pass", box)
        try:
            async with visit.connected() as connection:
                heard = (await connection.run("echo heard", env=env)).stdout == "heard\n"
        except (asyncssh.Error, OSError):
            heard = False
        assert heard is not defended
        assert (await visit.ssh("echo fine")).out == b"fine\n"
