"""Commands in the guest, against the real agent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pandastack.errors import Conflict, FileMissing, FileRefused, GuestUnreachable, InvalidRequest, NotFound
from pandastack.host import unix
from pandastack.host.guest import Deadlines, GuestLink
from pandastack.model.guest import Channel, Command, Exit, Process
from pandastack.testing.fixtures import LeakCheck, eventually, processes_with
from pandastack.testing.machines import gate_facts
from pandastack.testing.process_driver import ProcessMachine

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

ids = iter(f"p{number}" for number in range(1_000_000))


def command(*argv: str, **options: object) -> Command:
    return Command(process_id=next(ids), argv=argv, **options)  # type: ignore[arg-type]  # of many types


def shell(line: str, **options: object) -> Command:
    return Command(process_id=next(ids), shell=line, **options)  # type: ignore[arg-type]  # of many types


async def collect(process: Process) -> tuple[bytes, bytes, Exit]:
    """Its stdout, its stderr and how it ended, within 20 seconds."""
    outputs: dict[Channel, bytes] = {Channel.STDOUT: b"", Channel.STDERR: b""}
    async with asyncio.timeout(20):
        async for piece in process.output():
            outputs[piece.channel] += piece.data
        return outputs[Channel.STDOUT], outputs[Channel.STDERR], await process.wait()


async def run(guest: GuestLink, what: Command) -> tuple[bytes, bytes, int]:
    async with guest.run(what) as process:
        out, error, ended = await collect(process)
        return out, error, ended.exit_code


async def test_a_command_and_how_it_ended(guest: GuestLink) -> None:
    async with guest.run(shell("echo out; echo error >&2; exit 3")) as process:
        out, error, ended = await collect(process)
        assert (out, error, ended.exit_code, ended.timed_out) == (b"out\n", b"error\n", 3, False)
        assert 0 < ended.duration_us < 20e6
        assert process.pid > 1
        assert await process.wait() == ended


async def test_arguments_arrive_as_they_are(guest: GuestLink) -> None:
    arguments = ("a b", "", "$HOME", "ümlaut", "\n")
    out, _, _ = await run(guest, command("printf", "<%s>", *arguments))
    assert out.decode() == "".join(f"<{argument}>" for argument in arguments)


async def test_environment_directory_and_user(guest: GuestLink) -> None:
    line = 'echo "$PLANET $MOON $PWD $(id -un)"'
    out, _, code = await run(guest, shell(line, env={"MOON": "io=x"}, cwd="/usr", user="nobody"))
    assert (out, code) == (b"earth io=x /usr nobody\n", 0)
    out, _, _ = await run(guest, shell("echo $PLANET", env={"PLANET": "mars"}))
    assert out == b"mars\n"


@pytest.mark.parametrize(("killer", "code"), [("kill -9 $$", 137), ("kill -TERM $$", 143)])
async def test_a_process_killed_by_a_signal_ends_with_128_and_its_number(
    guest: GuestLink, killer: str, code: int
) -> None:
    assert (await run(guest, shell(killer)))[2] == code


async def test_a_timeout_kills_the_whole_group(guest: GuestLink, leak_check: LeakCheck) -> None:
    line = f"sh -c 'sleep 300; : {leak_check.tag}' & wait"
    async with guest.run(shell(line, timeout_ms=200)) as process:
        _, _, ended = await collect(process)
    assert (ended.exit_code, ended.timed_out) == (137, True)
    assert ended.duration_us >= 200_000
    await eventually(lambda: not processes_with(leak_check.tag))


async def test_a_timeout_reaches_what_has_left_the_group(guest: GuestLink, leak_check: LeakCheck) -> None:
    line = f"setsid sh -c 'sleep 300; : {leak_check.tag}' & sleep 300"
    async with guest.run(shell(line, timeout_ms=300)) as process:
        assert (await collect(process))[2].timed_out
    await eventually(lambda: not processes_with(leak_check.tag))


async def test_stdin_is_written_read_and_ended(guest: GuestLink) -> None:
    async with guest.run(command("cat", stdin=True)) as process:
        await process.write(b"hello ")
        await process.write(b"world")
        await process.close_stdin()
        await process.close_stdin()
        with pytest.raises(InvalidRequest, match="has been closed"):
            await process.write(b"late")
        assert (await collect(process))[0] == b"hello world"


async def test_without_stdin_there_is_nothing_to_read_and_nobody_may_write(guest: GuestLink) -> None:
    async with guest.run(command("cat")) as process:
        with pytest.raises(InvalidRequest, match="no stdin"):
            await process.write(b"x")
        assert (await collect(process))[2].exit_code == 0


async def test_a_terminal_has_a_size_and_echoes(guest: GuestLink) -> None:
    line = "stty size; read word; stty size; tty -s && echo terminal"
    async with guest.run(shell(line, terminal=(24, 80))) as process:
        output = process.output()
        assert (await anext(output)).data == b"24 80\r\n"
        await process.resize(50, 132)
        await process.write(b"go\n")
        rest = b"".join([piece.data async for piece in output])
        assert rest == b"go\r\n50 132\r\nterminal\r\n"
        assert (await process.wait()).exit_code == 0
        with pytest.raises(InvalidRequest, match="0 rows"):
            await process.resize(0, 80)


async def test_signals_go_to_the_group(guest: GuestLink) -> None:
    line = "trap 'echo got; exit 5' USR1; echo up; sleep 60 & wait"
    async with guest.run(shell(line)) as process:
        output = process.output()
        assert (await anext(output)).data == b"up\n"
        await process.signal(signal.SIGUSR1)
        rest = b"".join([piece.data async for piece in output])
        assert b"got\n" in rest
        assert (await process.wait()).exit_code == 5
        with pytest.raises(InvalidRequest, match="no signal 65"):
            await process.signal(65)


async def test_kill_and_wait_without_reading(guest: GuestLink) -> None:
    async with guest.run(shell("yes")) as process:
        await process.kill()
        assert (await asyncio.wait_for(process.wait(), 10)).exit_code == 137


async def test_waiting_alone_does_not_hold_the_process_up(guest: GuestLink) -> None:
    async with guest.run(shell("head -c 3000000 /dev/zero")) as process:
        assert (await asyncio.wait_for(process.wait(), 20)).exit_code == 0


# -- what cannot be started


async def test_a_missing_program_is_told_as_by_a_shell(guest: GuestLink) -> None:
    out, error, code = await run(guest, command("no-such-program", "x"))
    assert (out, code) == (b"", 127)
    assert b"no-such-program" in error
    out, error, code = await run(guest, command("/etc/passwd"))
    assert (out, code) == (b"", 126)
    assert b"/etc/passwd" in error


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"cwd": "/no/such"}, FileMissing, "working directory cannot be entered.*/no/such"),
        ({"cwd": "/etc/passwd"}, FileRefused, "working directory cannot be entered.*/etc/passwd"),
        ({"cwd": "relative"}, InvalidRequest, 'path must be absolute, got "relative"'),
        ({"user": "nosuchuser"}, InvalidRequest, "no such user in the sandbox"),
        ({"env": {"A=B": "x"}}, InvalidRequest, "cannot be the name"),
        ({"env": {"A": "x\0"}}, InvalidRequest, "NUL"),
        ({"timeout_ms": -1}, InvalidRequest, "cannot be -1"),
        ({"user": ""}, InvalidRequest, "user must have 1 to 255"),
        ({"user": "x" * 256}, InvalidRequest, "user must have 1 to 255"),
        ({"cwd": "/" + "x" * 5000}, InvalidRequest, "at most 4095"),
        ({"terminal": (0, 80)}, InvalidRequest, "0 rows"),
        ({"process_id": "x" * 65}, InvalidRequest, "1 to 64"),
    ],
)
async def test_a_wrong_setting_is_an_error_of_its_own(
    guest: GuestLink, options: dict[str, object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await run(guest, msgspec.structs.replace(command("true"), **options))


async def test_a_command_is_arguments_or_a_line(guest: GuestLink) -> None:
    both = msgspec.structs.replace(shell("b"), argv=("a",))
    for broken in (Command(process_id="x"), both):
        with pytest.raises(InvalidRequest, match="either"):
            await run(guest, broken)


async def test_too_many_arguments(guest: GuestLink) -> None:
    with pytest.raises(InvalidRequest, match="too l"):
        await run(guest, command("true", *["x" * 1000] * 900, "y" * 140_000))


async def test_an_id_can_be_used_once_while_it_runs(guest: GuestLink) -> None:
    async with guest.run(Command(process_id="same", argv=("sleep", "60"))):
        with pytest.raises(Conflict, match="same"):
            await run(guest, Command(process_id="same", argv=("true",)))


# -- leaving


async def test_leaving_the_block_kills_the_command(guest: GuestLink, leak_check: LeakCheck) -> None:
    async with guest.run(shell(f"sleep 300; : {leak_check.tag}")):
        assert processes_with(leak_check.tag)
    await eventually(lambda: not processes_with(leak_check.tag))


async def test_cancelling_kills_the_command(guest: GuestLink, leak_check: LeakCheck) -> None:
    task = asyncio.ensure_future(run(guest, shell(f"sleep 300; : {leak_check.tag}")))
    await eventually(lambda: bool(processes_with(leak_check.tag)))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await eventually(lambda: not processes_with(leak_check.tag))


async def test_a_detached_command_goes_on_and_is_found_again(guest: GuestLink) -> None:
    detached = shell("echo before; read word; echo $word; exit 4", stdin=True, detached=True)
    async with guest.run(detached) as process:
        pid = process.pid
    (info,) = [info for info in await guest.processes() if info.id == detached.process_id]
    assert (info.pid, info.running, info.exit_code, info.tty) == (pid, True, None, False)
    async with guest.attach(detached.process_id) as process:
        assert process.pid == pid
        await process.write(b"after\n")
        out, _, ended = await collect(process)
    assert (out, ended.exit_code) == (b"before\nafter\n", 4)
    (info,) = [info for info in await guest.processes() if info.id == detached.process_id]
    assert (info.running, info.exit_code) == (False, 4)
    async with guest.attach(detached.process_id) as process:
        assert (await collect(process))[2].exit_code == 4, "an ended one tells its output again"


async def test_leaving_an_attachment_harms_nobody(guest: GuestLink) -> None:
    async with guest.run(shell("read word; echo $word", stdin=True)) as process:
        async with guest.attach(process.id) as other:
            assert other.pid == process.pid
        await process.write(b"still here\n")
        assert (await collect(process))[0] == b"still here\n"


async def test_detaching_by_hand(guest: GuestLink) -> None:
    async with guest.run(shell("sleep 60", detached=True)) as process:
        await process.detach()
        with pytest.raises(Conflict, match="closed"):
            await process.wait()
    await guest.kill(process.id, signal.SIGKILL)
    async with guest.attach(process.id) as process:
        assert (await collect(process))[2].exit_code == 137


async def test_unknown_processes(guest: GuestLink) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await guest.kill("nobody", 9)
    for unknown in ("nobody", "", "x" * 65, "a\0b"):
        with pytest.raises(NotFound, match="no such process"):
            async with guest.attach(unknown):
                pass


# -- what is given later, and waiting for the end


async def parts(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


async def test_a_process_that_runs_is_fed_and_awaited(guest: GuestLink) -> None:
    reader = command("cat", stdin=True, detached=True)
    async with guest.run(reader):
        pass
    await guest.feed(reader.process_id, parts(b"one ", b"two "))
    assert (await guest.process(reader.process_id, wait_seconds=0.05)).stdin
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(guest.process(reader.process_id, wait_seconds=20))
        await guest.feed(reader.process_id, parts(b"three"), last=True)
    assert (waiting.result().running, waiting.result().exit_code) == (False, 0)
    async with guest.attach(reader.process_id) as process:
        assert (await collect(process))[0] == b"one two three"
        with pytest.raises(InvalidRequest, match="no stdin"):
            await process.write(b"late")


async def test_who_takes_no_input_is_not_fed(guest: GuestLink) -> None:
    for what, words in ((shell("sleep 60"), "without stdin"), (command("true", stdin=True), "has ended")):
        async with guest.run(msgspec.structs.replace(what, detached=True)):
            await guest.process(what.process_id, wait_seconds=0.3)
        with pytest.raises(Conflict, match=words):
            await guest.feed(what.process_id, parts(b"x"), last=True)
    for verb in (guest.feed("nobody", parts()), guest.process("nobody"), guest.process("", wait_seconds=1)):
        with pytest.raises(NotFound, match="no such process"):
            await verb


async def test_input_that_fails_in_the_middle_leaves_the_rest_open(guest: GuestLink) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half "
        raise ZeroDivisionError

    async with guest.run(command("cat", stdin=True)) as process:
        with pytest.raises(ZeroDivisionError):
            await guest.feed(process.id, broken(), last=True)
        await guest.feed(process.id, parts(b"whole"), last=True)
        assert (await collect(process))[0] in (b"half whole", b"whole")


async def test_a_process_that_never_reads_is_given_up(machine: ProcessMachine) -> None:
    connection = unix.connect(machine.guest_socket)
    async with await GuestLink.connect(connection, deadlines=Deadlines(unread=0.2)) as guest:
        guest.announce(os.urandom(16), gate_facts())
        await guest.entered(deadline=10)
        async with guest.run(shell("sleep 60", stdin=True)) as process:
            for much in (100_000, 1_000_000):
                with pytest.raises(Conflict, match=r"not read its stdin for 0\.2 s"):
                    await guest.feed(process.id, parts(bytes(much)))


# -- volume


async def test_64_mib_each_way_arrive_whole(guest: GuestLink) -> None:
    block = os.urandom(1 << 20)
    expected, received = hashlib.sha256(), hashlib.sha256()

    async def feed(process: Process) -> None:
        for _ in range(64):
            expected.update(block)
            await process.write(block)
        await process.close_stdin()

    async with guest.run(command("cat", stdin=True)) as process, asyncio.TaskGroup() as group:
        group.create_task(feed(process))
        async for piece in process.output():
            received.update(piece.data)
        assert (await process.wait()).exit_code == 0
    assert received.digest() == expected.digest()


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_slow_reader_holds_memory_flat_and_blocks_only_itself(guest: GuestLink) -> None:
    async with guest.run(shell("yes 0123456789")) as slow:
        output = slow.output()
        await anext(output)
        before = resident()
        for _ in range(20):
            assert (await run(guest, command("echo", "through")))[0] == b"through\n"
            await anext(output)
        assert resident() - before < 8 << 20


async def test_a_process_that_does_not_read_blocks_only_its_writer(guest: GuestLink) -> None:
    async with guest.run(shell("sleep 60", stdin=True)) as deaf, asyncio.TaskGroup() as group:
        writing = group.create_task(deaf.write(bytes(8 << 20)))
        assert (await run(guest, command("echo", "through")))[0] == b"through\n"
        assert not writing.done()
        await deaf.kill()
        assert (await deaf.wait()).exit_code == 137
        await asyncio.wait_for(writing, 5)


async def test_many_at_once(guest: GuestLink) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(guest, shell(f"echo {n}; exit {n}"))) for n in range(20)]
    assert [task.result() for task in tasks] == [(f"{n}\n".encode(), b"", n) for n in range(20)]


# -- the end of the agent


async def test_an_agent_that_is_killed_fails_what_waits(guest: GuestLink, machine: ProcessMachine) -> None:
    async with asyncio.TaskGroup() as group:

        async def wait() -> None:
            async with guest.run(shell("sleep 60")) as process:
                os.kill(machine.pid, signal.SIGKILL)
                with pytest.raises(GuestUnreachable, match="closed the connection"):
                    await process.wait()

        await asyncio.wait_for(group.create_task(wait()), 10)
    with pytest.raises(GuestUnreachable):
        await guest.stat("/")


async def test_a_stopped_agent_is_unreachable_at_the_deadline(
    guest: GuestLink, machine: ProcessMachine
) -> None:
    await machine.pause()
    with pytest.raises(GuestUnreachable, match=r"did not answer within 0\.1 s"):
        await guest.ping(deadline=0.1)
    await machine.resume()
    await guest.ping(deadline=5)
