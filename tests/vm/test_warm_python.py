"""The warm interpreter of the template code-interpreter: only the time that it takes tells it from Python."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Struct

from pandastack.host.app import LocalHost
from pandastack.model.guest import Channel, Command, Process
from pandastack.model.host import VmSpec
from tests.vm.warm_programs import COLD, FILES, IMPORTS, MODULES, RANDOM, WARM

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(900)]

ALIKE = Path(__file__).with_name("warm_alike.sh")
"""Paragraphs of shell; a comment says what each is about."""

PYTHON = "/usr/bin/python3"
KIND = "import sys; print(type(sys.meta_path[0]).__name__)"
"""Prints Hidden in a program that runs warm."""

SERVER = "$(pgrep -x pandastack-warm)"


class Done(Struct, frozen=True):
    """How a command ended and what it said."""

    code: int
    out: str
    error: str
    timed_out: bool = False


@pytest.fixture
async def host(host: LocalHost) -> LocalHost:
    """With a machine, and the files that programs are run from."""
    await host.start(VmSpec("vm-1", "code-interpreter"))
    for name, text in FILES.items():
        await write(host, f"/workspace/{name}", text)
    return host


async def write(host: LocalHost, path: str, text: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield text.encode()

    await host.guest("vm-1").write(path, chunks())


async def do(host: LocalHost, line: str, vm_id: str = "vm-1", *, timeout_ms: int | None = None) -> Done:
    """Run a shell line in /workspace."""
    command = Command(process_id=os.urandom(8).hex(), shell=line, cwd="/workspace", timeout_ms=timeout_ms)
    said = {Channel.STDOUT: b"", Channel.STDERR: b""}
    async with host.guest(vm_id).run(command) as process:
        async for piece in process.output():
            said[piece.channel] += piece.data
        ended = await process.wait()
    out, error = (said[channel].decode(errors="replace") for channel in (Channel.STDOUT, Channel.STDERR))
    return Done(ended.exit_code, out, error, ended.timed_out)


async def alike(host: LocalHost, line: str) -> tuple[Done, Done]:
    """What a line does with `python3` as it is found, and with Python itself; `$PYTHON` stands for either."""
    return (
        comparable(await do(host, f"PYTHON=python3\n{line}")),
        comparable(await do(host, f"PYTHON={PYTHON}\n{line}")),
    )


def comparable(done: Done) -> Done:
    """Without what differs from run to run: addresses and process ids."""
    error = re.sub(r"0x[0-9a-f]{6,}|(?<=: line )\d+: *\d+ ", "…", done.error)
    return Done(done.code, re.sub(r"0x[0-9a-f]{6,}", "…", done.out), error)


def paragraphs(text: str) -> dict[str, str]:
    """By what each is about: its lines."""
    _, *blocks = text.split("\n# ")
    return {about: lines for about, _, lines in (block.partition("\n") for block in blocks)}


async def test_programs_do_what_they_do_in_python(host: LocalHost) -> None:
    different = {}
    for name, line in paragraphs(ALIKE.read_text()).items():
        warm, cold = await alike(host, line)
        if warm != cold:
            different[name] = (warm, cold)
    assert not different


async def test_programs_run_warm(host: LocalHost) -> None:
    said = {line: (await do(host, line.replace("CODE", f"'{KIND}'"))).out.strip() for line in WARM}
    assert said == dict.fromkeys(WARM, "Hidden")


async def test_whatever_is_not_alike_runs_cold(host: LocalHost) -> None:
    said = {line: (await do(host, line.replace("CODE", f"'{KIND}'"))).out.strip() for line in COLD}
    assert {line: word for line, word in said.items() if word == "Hidden" or not word} == {}


async def test_a_terminal_is_left_to_python(host: LocalHost) -> None:
    command = Command(process_id="terminal", argv=("python3", "-c", KIND), terminal=(24, 80))
    async with host.guest("vm-1").run(command) as process:
        words = b"".join([piece.data async for piece in process.output()])
    assert b"Hidden" not in words


async def test_another_user_runs_cold(host: LocalHost) -> None:
    done = await do(host, f"su user -c \"python3 -c '{KIND}; import os; print(os.getuid())'\"")
    assert done.out.split()[-1] == "1000"
    assert "Hidden" not in done.out


async def test_an_import_brings_what_it_brings_in_python(host: LocalHost) -> None:
    different = {}
    for name in IMPORTS:
        warm, cold = await alike(host, f"$PYTHON modules.py {name}")
        if warm != cold:
            different[name] = set(warm.out.splitlines()) ^ set(cold.out.splitlines())
    assert not different


async def test_what_the_template_names_is_there_at_once(host: LocalHost) -> None:
    done = await do(host, f"python3 -c 'import time; began = time.process_time(); import {MODULES}; "
                          "print(time.process_time() - began)'")  # fmt: skip
    assert done.error == ""
    assert float(done.out) < 2


async def test_the_first_chart(host: LocalHost) -> None:
    done = await do(host, "python3 cell.py && file chart.png && rm chart.png")
    assert (done.error, done.code) == ("", 0)
    assert re.search(r"rows: 3\nchart.png: PNG image data", done.out)


async def test_no_two_programs_share_chance(host: LocalHost) -> None:
    """Neither in one sandbox, nor as the first ones of two."""
    await host.start(VmSpec("vm-2", "code-interpreter"))
    said = [await do(host, f"python3 -c '{RANDOM}'", vm_id) for vm_id in ("vm-1", "vm-2", "vm-1", "vm-2")]
    assert [done.error for done in said] == [""] * 4
    answers = [done.out.splitlines() for done in said]
    assert len(answers[0]) > 12
    for one in zip(*answers, strict=True):
        assert len(set(one)) == 4, one


async def test_a_timeout_ends_all_of_it(host: LocalHost) -> None:
    done = await do(host, "exec python3 sleepers.py", timeout_ms=3000)
    assert done.timed_out
    assert done.out == "up\n"
    assert await gone(host, "sleep 7[67]77")


async def gone(host: LocalHost, pattern: str) -> bool:
    for _ in range(20):
        if (await do(host, f"pgrep -f '{pattern}'")).code == 1:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_what_a_program_leaves_running_runs_on(host: LocalHost) -> None:
    done = await do(
        host, 'python3 -c \'import subprocess; subprocess.Popen(["sleep", "7577"])\' >/dev/null 2>&1'
    )
    assert done.code == 0
    await asyncio.sleep(0.3)
    assert (await do(host, "pkill -f 'sleep 757[7]'")).code == 0
    forked = "import os, time; os.fork() or (os.close(1), os.close(2), time.sleep(7477))"
    assert (await do(host, f"python3 -c '{forked}' >/dev/null 2>&1")).code == 0
    await asyncio.sleep(0.3)
    assert (await do(host, "pkill -f 'sleep\\(747[7]'")).code == 0


async def up(process: Process) -> None:
    """Return once the program has said that it is up."""
    async for piece in process.output():
        assert piece.data == b"up\n"
        return


async def end_of(process: Process) -> tuple[int, str]:
    """Exit code and what else it says."""
    async with asyncio.timeout(30):
        said = b"".join([piece.data async for piece in process.output()])
        return (await process.wait()).exit_code, said.decode()


def program(name: str) -> Command:
    """One that says `up` and waits."""
    return Command(process_id=name, argv=("python3", name), cwd="/workspace")


@pytest.mark.parametrize(
    ("name", "number", "code", "word"),
    [
        ("patient.py", signal.SIGTERM, 7, "stopped by 15"),
        ("endless.py", signal.SIGTERM, 128 + 15, ""),
        ("endless.py", signal.SIGINT, 128 + 2, "KeyboardInterrupt"),
        ("endless.py", signal.SIGHUP, 128 + 1, ""),
        ("endless.py", signal.SIGKILL, 128 + 9, ""),
    ],
)
async def test_signals_arrive(host: LocalHost, name: str, number: int, code: int, word: str) -> None:
    async with host.guest("vm-1").run(program(name)) as process:
        await up(process)
        await process.signal(number)
        ended, said = await end_of(process)
    assert ended == code
    assert word in said
    assert await gone(host, f"python3 {name}")


async def test_a_signal_is_for_the_process_that_it_is_sent_to(host: LocalHost) -> None:
    line = "python3 patient.py > said & until grep -q up said; do sleep 0.1; done; kill $!; wait $!; echo $?"
    done = await do(host, f"{line}; cat said")
    assert done.out.splitlines() == ["7", "up", "stopped by 15"]


async def test_many_at_once(host: LocalHost) -> None:
    line = "python3 -c 'import sys, numpy; print(numpy.arange({0}).sum(), sys.stdin.read())' <<< {0}"
    numbers = range(100, 112)
    said = await asyncio.gather(*(do(host, line.format(number)) for number in numbers))
    assert [done.out.split() for done in said] == [[str(n * (n - 1) // 2), str(n)] for n in numbers]
    assert await gone(host, "python3 -c")


async def test_without_its_server_python_is_only_slower(host: LocalHost) -> None:
    async with host.guest("vm-1").run(program("endless.py")) as process:
        await up(process)
        await do(host, f"kill -9 {SERVER}")
        assert (await end_of(process))[0] == 128 + 9
    assert await gone(host, "endless.py")
    done = await do(host, f"python3 -c '{KIND}; print(6 * 7)'")
    assert (done.code, done.error, done.out.split()[1:]) == (0, "", ["42"])
    assert "Hidden" not in done.out


async def test_a_server_that_hangs_is_not_waited_for(host: LocalHost) -> None:
    await do(host, f"kill -STOP {SERVER}")
    done = await do(host, "python3 -c 'print(6 * 7)'", timeout_ms=30_000)
    assert (done.code, done.out) == (0, "42\n")
    await do(host, f"kill -CONT {SERVER}; sleep 1")
    assert (await do(host, f"python3 -c '{KIND}'")).out == "Hidden\n"


async def test_modules_that_change_are_loaded_anew(host: LocalHost) -> None:
    packages = (await do(host, "python3 -c 'import yaml; print(yaml.__path__[0])'")).out.strip()
    assert (await do(host, f"python3 -c '{KIND}'")).out == "Hidden\n"
    await do(host, f"echo 'VALUE = 5' >> {packages}/__init__.py")
    assert (await do(host, "python3 -c 'import yaml; print(yaml.VALUE)'")).out == "5\n"


async def test_what_is_installed_is_found(host: LocalHost) -> None:
    folder = "/usr/local/lib/python3.11/dist-packages"
    await do(host, f"echo 'VALUE = 6' > {folder}/wholly_new.py")
    done = await do(host, f"python3 -c '{KIND}; import wholly_new; print(wholly_new.VALUE)'")
    assert done.out == "Hidden\n6\n"
    await do(host, f"mkdir {folder}/tabulate; echo 'VALUE = 7' > {folder}/tabulate/__init__.py")
    done = await do(host, f"python3 -c '{KIND}; import tabulate; print(tabulate.VALUE)'")
    assert done.out.split()[1:] == ["7"]
    assert "Hidden" not in done.out


async def test_a_path_of_its_own_comes_first(host: LocalHost) -> None:
    await do(host, "mkdir lib; echo 'print(1)' > lib/tabulate.py")
    done = await do(host, "python3 -c 'import sys; sys.path.insert(0, \"lib\"); import tabulate, tqdm'")
    assert done.out == "1\n"
