"""An SSH server in front of a sandbox, and the clients that come to it: OpenSSH's own, and asyncssh's."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncssh
import msgspec
import pytest

from pandastack.host.app import LocalHost, open_host
from pandastack.sshd.limits import Limits
from pandastack.sshd.listener import listening
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.process_driver import ProcessDriver
from pandastack.testing.real import small_host
from tests.api.conftest import Hosts, World, foreigner, of_processes
from tests.vm.conftest import images, quiet

__all__ = ["foreigner", "images"]

PATIENCE = 30.0


class Done(msgspec.Struct, frozen=True):
    """How a program of OpenSSH's ended."""

    status: int
    out: bytes
    err: str


class Pass(msgspec.Struct, frozen=True):
    """What one comes with: a key, its certificate and the server's line, each in a file of `folder`."""

    folder: Path
    login: str
    address: tuple[str, int]

    @property
    def options(self) -> list[str]:
        """For `ssh`, `scp` and `sftp` alike."""
        settings = {
            "IdentityFile": self.folder / "key",
            "CertificateFile": self.folder / "key-cert.pub",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "HostKeyAlias": "pandastack",
            "StrictHostKeyChecking": "yes",
            "PasswordAuthentication": "no",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "Port": self.address[1],
            "User": self.login,
            "LogLevel": "ERROR",
        }
        given = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return ["-F", "/dev/null", *given]

    async def run(
        self, program: str, *words: str, stdin: bytes | None = None, env: dict[str, str] | None = None
    ) -> Done:
        """Run `ssh`, `scp` or `sftp` to its end. In `words`, HOST is the sandbox."""
        where = [word.replace("HOST", self.address[0]) for word in words]
        process = await asyncio.create_subprocess_exec(
            program,
            *self.options,
            *where,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **(env or {})},
        )
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            process.kill()
            out, err = await process.communicate()
            pytest.fail(f"{program} {words} did not end: {out[-300:]!r} {err[-300:]!r}")
        return Done(process.returncode or 0, out, err.decode(errors="replace"))

    async def ssh(self, *command: str, stdin: bytes | None = None, more: tuple[str, ...] = ()) -> Done:
        """`ssh` with a command."""
        return await self.run("ssh", *more, "HOST", *command, stdin=stdin)

    @asynccontextmanager
    async def connected(self, **more: object) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """An asyncssh client."""
        settings: dict[str, object] = {
            "username": self.login,
            "client_keys": [(str(self.folder / "key"), str(self.folder / "key-cert.pub"))],
            "known_hosts": str(self.folder / "known_hosts"),
            "host_key_alias": "pandastack",
            "config": None,
            "agent_path": None,
            "compression_algs": None,
        }
        options = asyncssh.SSHClientConnectionOptions(**(settings | more))
        async with asyncssh.connect(*self.address, options=options) as connection:
            yield connection


def of_machines(state: Path) -> AbstractAsyncContextManager[LocalHost]:
    """Hosts whose machines are virtual ones."""
    return open_host(small_host(state), quiet)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that servers run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=["process", pytest.param("qemu", marks=pytest.mark.vm)])
def hosts(request: pytest.FixtureRequest, process_driver: ProcessDriver) -> Hosts:
    """Without isolation, and with it."""
    if request.param == "process":
        return of_processes(process_driver)
    request.getfixturevalue("images")
    return of_machines


@pytest.fixture
async def world(leak_check: LeakCheck, tmp_path: Path, hosts: Hosts) -> AsyncIterator[World]:
    world = World(tmp_path, hosts)
    await world.start()
    yield world
    await world.host.end_all()
    await world.stop()


@pytest.fixture
async def box(world: World) -> str:
    return str((await world.create(ttl_seconds=3600))["id"])


Opener = Callable[[Limits], AbstractAsyncContextManager[tuple[str, int]]]


@pytest.fixture
def opener(world: World) -> Opener:
    """Opens SSH servers with limits of the test's choice."""

    @asynccontextmanager
    async def opened(limits: Limits) -> AsyncIterator[tuple[str, int]]:
        plane = world.control.plane
        async with listening(plane.house(), "127.0.0.1:0", limits) as address:
            plane.certificates.address = address
            yield address

    return opened


@pytest.fixture
async def address(opener: Opener) -> AsyncIterator[tuple[str, int]]:
    async with opener(Limits()) as address:
        yield address


async def admitted(world: World, folder: Path, box: str, **body: object) -> Pass:
    """Make a key in `folder` and have a certificate made for it."""
    folder.mkdir(mode=0o700)
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / "key")
    key.write_public_key(folder / "key.pub")
    (folder / "key").chmod(0o600)
    public = key.export_public_key().decode()
    answer = await world.http.post(f"/v1/sandboxes/{box}/ssh", json={"public_key": public, **body})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    (folder / "key-cert.pub").write_text(made["certificate"] + "\n")
    (folder / "known_hosts").write_text(made["known_hosts"] + "\n")
    return Pass(folder, made["login"], (made["host"], made["port"]))


@pytest.fixture
async def visit(world: World, address: tuple[str, int], box: str, tmp_path: Path) -> Pass:
    """What one comes to the sandbox with."""
    return await admitted(world, tmp_path / "pass", box)
