"""What somebody can do who has taken over a machine's process: nothing, by a program that tries it all.

It runs through the jail's own program, as a QEMU does. The same program outside of a jail must succeed with
everything, or it proves nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastack.host import jail, unix
from pandastack.host.cell import Bind
from pandastack.host.jailer import Jailer, find_jailer, lodging
from pandastack.host.paths import Cache
from pandastack.host.tool import run_tool
from pandastack.testing.real import CACHE

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

ENV = {"PATH": os.defpath}
LIMIT = 1 << 20
ATTEMPTS = 39
RELATIVE = "signal to a relative"


@pytest.fixture(scope="session")
def escape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("escape") / "escape"
    source = Path(__file__).with_name("escape.c")
    asyncio.run(run_tool(["cc", "-static", "-O1", "-Wall", "-Werror", "-o", program, source], timeout=60))
    return program


@pytest.fixture
async def jailer(tmp_path: Path) -> Jailer | None:
    return await find_jailer(
        Cache(CACHE), tmp_path / "users", "210000-210009", f"pandastack-test-{os.getpid()}", None
    )


@pytest.fixture
def arguments(tmp_path: Path) -> Iterator[list[str]]:
    """A file and a socket of another machine, and a process of the host."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "secret").write_text("secret")
    (other / "secret").chmod(0o666)
    stranger = jail.spawn(["/bin/sleep", "60"], log=tmp_path / "stranger", cwd=tmp_path, env=ENV)
    with unix.listen(other / "monitor"), _short(other) as short:
        yield [str(other / "secret"), f"{short}/monitor", str(stranger.pid)]
    stranger.signal(9)
    stranger.ended_within(5)
    stranger.close()


class _short:  # a context manager of one test
    """A path to a folder that an address has room for."""

    def __init__(self, folder: Path) -> None:
        self._path = Path(f"/tmp/escape-{os.getpid()}")  # gone at the end of the test
        self._folder = folder

    def __enter__(self) -> Path:
        self._path.symlink_to(self._folder)
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


async def tried(child: jail.Child, log: Path) -> dict[str, str]:
    """What became of each attempt."""
    assert await asyncio.wait_for(child.wait(), 20) == 0, log.read_text()
    child.close()
    return dict(line.split(": ", 1) for line in log.read_text().splitlines())


@pytest.mark.parametrize("signals", [False, True])
async def test_whoever_takes_over_a_process_gets_nowhere(
    jailer: Jailer | None, escape: Path, arguments: list[str], tmp_path: Path, *, signals: bool
) -> None:
    """One that must let its threads signal each other could signal relatives: it is alone, and has none."""
    if jailer is None:  # not root: nobody is put into a jail, and the host says so
        return
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    with lodging(jailer, home, ["file"]) as lodged:
        cell = jailer.cell(lodged, [Bind(escape, "x")], signals=signals)
        child = jail.spawn(
            [str(escape), *arguments], log=log, cwd=home, env={}, file_size_limit=LIMIT, cell=cell
        )
    found = await tried(child, log)
    jailer.means.users.let_go(lodged.user, home)
    assert [name for name, how in found.items() if how == "done"] == ([RELATIVE] if signals else [])
    assert len(found) == ATTEMPTS
    assert (tmp_path / "other" / "secret").read_text() == "secret"
    assert not (home / "planted").exists()


async def test_outside_of_a_jail_the_same_program_can_do_it_all(
    jailer: Jailer | None, escape: Path, arguments: list[str], tmp_path: Path
) -> None:
    """The negative control. Not root, some of it is denied all the same, but never all."""
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    child = jail.spawn([str(escape), *arguments], log=log, cwd=home, env=ENV)
    found = await tried(child, log)
    denied = {name for name, how in found.items() if how != "done"}
    assert len(found) == ATTEMPTS
    assert not denied if jailer else len(denied) < 20


async def test_the_process_is_a_child_of_ours_whose_end_is_told(
    jailer: Jailer | None, tmp_path: Path
) -> None:
    if jailer is None:
        return
    home = tmp_path / "home"
    home.mkdir()
    with lodging(jailer, home, ()) as lodged:
        cell = jailer.cell(lodged, [Bind(Path("/usr/bin/sleep"), "x")])
        child = jail.spawn(["/usr/bin/sleep", "60"], log=tmp_path / "log", cwd=home, env={}, cell=cell)
    assert Path(f"/proc/{child.pid}/status").read_text().count(str(lodged.user)) > 4
    assert await child.end(0) == -9
    child.close()


CHROOT = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/root"
[ "$1" = plain ] || mount --bind "$0/root" "$0/root"
for each in /*; do
    if [ -L "$each" ]; then cp -P "$each" "$0/root$each"
    elif [ -d "$each" ]; then mkdir "$0/root$each"; mount --rbind "$each" "$0/root$each"
    fi
done
shift
exec chroot "$0/root" "$@"
"""
STARTED = """
import asyncio, sys
from pathlib import Path
from pandastack.errors import MachineError
from pandastack.host import jail
from pandastack.host.cell import Bind
from pandastack.host.jailer import find_jailer, lodging
from pandastack.host.paths import Cache

async def start(place, cache):
    jailer = await find_jailer(Cache(cache), place / "users", "210000-210009", "pandastack-test", None)
    home = place / "home"
    home.mkdir()
    with lodging(jailer, home, ()) as lodged:
        cell = jailer.cell(lodged, [Bind(Path("/usr/bin/true"), "x")])
        try:
            child = jail.spawn(["/usr/bin/true"], log=place / "log", cwd=home, env={}, cell=cell)
        except MachineError as error:
            print(error.message)
        else:
            print("ended", await child.wait())
            child.close()

asyncio.run(start(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize(("root", "told"), [("plain", "mount --bind"), ("a mount", "ended 0")])
async def test_a_server_in_a_plain_chroot_is_told_what_mends_it(
    jailer: Jailer | None, tmp_path: Path, root: str, told: str
) -> None:
    """And when its root is bound onto itself, as the words say, it works."""
    if jailer is None:
        return
    where, place = tmp_path / "where", tmp_path / "place"
    where.mkdir()
    place.mkdir()
    inside = [sys.executable, "-c", STARTED, str(place), str(CACHE)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = await run_tool(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", CHROOT, str(where), root, *inside],
        settings=environment,
        timeout=60,
    )
    assert told in done


async def test_it_keeps_what_it_was_given_and_nothing_of_the_jails(
    jailer: Jailer | None, tmp_path: Path
) -> None:
    if jailer is None:
        return
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    binds = [Bind(Path("/usr/bin/bash"), "x"), Bind(Path("/usr/bin/ls"), "x")]
    with socket.socket(socket.AF_UNIX) as passed, lodging(jailer, home, ()) as lodged:
        cell = jailer.cell(lodged, binds)
        given = {0, 1, 2, passed.fileno()}
        child = jail.spawn(
            ["/usr/bin/bash", "-c", "cd /proc/$$/fd; echo *"],
            log=log,
            cwd=home,
            env={},
            pass_fds=(passed.fileno(),),
            cell=cell,
        )
        assert await asyncio.wait_for(child.wait(), 5) == 0, log.read_text()
    child.close()
    found = log.read_text().splitlines()[-1].split()  # bash complains that it has no path to where it is
    assert given <= {int(number) for number in found} <= given | {3, 255}, "and bash's own"
