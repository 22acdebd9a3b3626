"""Who is let in by SSH, how many, and what ends with their keys and sandboxes."""

from __future__ import annotations

import asyncio
import stat
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncssh
import httpx2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_key,
)

from pandastack.services.certificates import FOR_KEY
from pandastack.sshd.limits import Limits
from pandastack.testing.process_driver import ProcessDriver
from tests.api.conftest import TOKEN, Hosts, World, of_processes
from tests.sshd.conftest import PATIENCE, Opener, Pass, admitted

pytestmark = pytest.mark.anyio

KEY = Ed25519PrivateKey.generate()
HELD = TOKEN[:12]


@pytest.fixture(params=["process"])
def hosts(process_driver: ProcessDriver) -> Hosts:
    """Who is let in does not depend on what machines are."""
    return of_processes(process_driver)


def forged(visit: Pass, authority: Ed25519PrivateKey, **other: Any) -> None:  # noqa: ANN401  # what the builder takes
    """Put another certificate in the place of the one that was given."""
    public = load_ssh_public_key((visit.folder / "key-cert.pub").with_name("key.pub").read_bytes())
    now = int(time.time())
    fields: dict[str, Any] = {
        "type": SSHCertificateType.USER,
        "valid_principals": [visit.login.encode(), f"{FOR_KEY}{HELD}".encode()],
        "valid_after": now - 60,
        "valid_before": now + 60,
    }
    assert isinstance(public, Ed25519PublicKey)
    builder = SSHCertificateBuilder().public_key(public).serial(1).key_id(b"forged")
    for name, value in (fields | other).items():
        builder = getattr(builder, name)(*(value if isinstance(value, tuple) else (value,)))
    (visit.folder / "key-cert.pub").write_bytes(builder.sign(authority).public_bytes() + b"\n")


def own_authority(world: World) -> Ed25519PrivateKey:
    """What signs this server's certificates, as a thief of its state would have it."""
    return Ed25519PrivateKey.from_private_bytes((world.folder / "control" / "ssh-authority.key").read_bytes())


async def refused(visit: Pass) -> bool:
    """Whether it is not let in: nothing of a session was seen."""
    done = await visit.ssh("echo inside")
    assert (done.status, done.out) in ((0, b"inside\n"), (255, b"")), done
    return done.status == 255 and "Permission denied" in done.err


FORGERIES: dict[str, dict[str, Any]] = {
    "expired": {"valid_after": 1, "valid_before": int(time.time()) - 5},
    "not yet": {"valid_after": int(time.time()) + 86_400, "valid_before": int(time.time()) + 90_000},
    "of a host": {"type": SSHCertificateType.HOST},
    "for another": {"valid_principals": [b"another", f"{FOR_KEY}{HELD}".encode()]},
    "for more": {"valid_principals": [b"%LOGIN%", b"another", f"{FOR_KEY}{HELD}".encode()]},
    "of no key": {"valid_principals": [b"%LOGIN%"]},
    "with a condition": {"add_critical_option": (b"only-if@example.com", b"")},
}


async def test_a_certificate_that_is_good(visit: Pass, world: World) -> None:
    """The control of those below: made in the same way, with the same key, it opens."""
    assert not await refused(visit)
    forged(visit, own_authority(world))
    assert not await refused(visit)


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_certificate_that_is_not(visit: Pass, world: World, how: str) -> None:
    other = dict(FORGERIES[how])
    if "valid_principals" in other:
        other["valid_principals"] = [
            each.replace(b"%LOGIN%", visit.login.encode()) for each in other["valid_principals"]
        ]
    forged(visit, own_authority(world), **other)
    assert await refused(visit)


async def test_a_certificate_of_another_server(visit: Pass) -> None:
    forged(visit, KEY)
    assert await refused(visit)


async def test_a_key_without_a_certificate(visit: Pass) -> None:
    (visit.folder / "key-cert.pub").unlink()
    assert await refused(visit)


async def test_a_password(visit: Pass) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        async with visit.connected(client_keys=None, password="secret"):
            pass


async def test_another_sandbox(visit: Pass, world: World) -> None:
    """A certificate is for one sandbox, and for one of its users, alone."""
    other = str((await world.create(ttl_seconds=3600))["id"])
    for login in (other, f"nobody+{visit.login}", f"{FOR_KEY}{HELD}"):
        assert await refused(msgspec.structs.replace(visit, login=login)), login
    assert not await refused(visit)


async def test_a_client_knows_its_server(visit: Pass) -> None:
    """It refuses one that another authority vouches for."""
    public = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (visit.folder / "known_hosts").write_text(f"@cert-authority pandastack {public}\n")
    done = await visit.ssh("echo inside")
    assert done.status == 255 and "verification failed" in done.err


async def test_who_may_ask_for_one(
    world: World, address: tuple[str, int], box: str, foreigner: httpx2.AsyncClient
) -> None:
    public = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    path, body = f"/v1/sandboxes/{box}/ssh", {"public_key": public}
    assert (await world.http.post(path, json=body)).status_code == 200
    assert (await foreigner.post(path, json=body)).status_code == 404
    read = (await world.http.post("/v1/me/tokens", json={"label": "r", "scope": "read"})).json()["token"]
    headers = {"authorization": f"Bearer {read}"}
    assert (await world.http.post(path, json=body, headers=headers)).status_code == 403
    await foreigner.aclose()


WEAK = asyncssh.generate_private_key("ssh-rsa", key_size=1024).export_public_key().decode()
LINE = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


@pytest.mark.parametrize(
    "body",
    [
        {"public_key": ""},
        {"public_key": "nonsense"},
        {"public_key": WEAK},
        {"public_key": LINE + "\n" + LINE},
        {"public_key": LINE, "ttl_seconds": 0},
        {"public_key": LINE, "ttl_seconds": 3601},
        {"public_key": LINE, "user": "a+b"},
        {"public_key": LINE, "user": "x" * 33},
        {"public_key": "x" * 5000},
    ],
)
async def test_what_is_no_request(
    world: World, address: tuple[str, int], box: str, body: dict[str, object]
) -> None:
    answer = await world.http.post(f"/v1/sandboxes/{box}/ssh", json=body)
    assert answer.status_code == 400, answer.text


async def test_without_ssh_none_is_made(world: World, box: str) -> None:
    answer = await world.http.post(f"/v1/sandboxes/{box}/ssh", json={"public_key": LINE})
    assert answer.status_code == 409 and "--ssh" in answer.json()["error"]


async def test_a_key_that_was_revoked(world: World, opener: Opener, box: str, tmp_path: Path) -> None:
    """It opens nothing more, neither anew nor on a connection that stands; what runs ends, too."""
    made = (await world.http.post("/v1/me/tokens", json={"label": "x", "scope": "use"})).json()
    world.http.headers["authorization"] = f"Bearer {made['token']}"
    async with opener(Limits(look=0.2)):
        visit = await admitted(world, tmp_path / "pass", box)
        async with visit.connected() as connection:
            assert (await connection.run("echo inside")).stdout == "inside\n"
            running = asyncio.create_task(connection.run("sleep 60"))
            await asyncio.sleep(0.3)
            world.http.headers["authorization"] = f"Bearer {TOKEN}"
            assert (await world.http.delete(f"/v1/me/tokens/{made['prefix']}")).status_code == 204
            await asyncio.wait_for(connection.wait_closed(), PATIENCE)
            assert (await running).exit_status is None
        done = await visit.ssh("echo inside")
        assert done.status == 255 and done.out == b""


async def test_a_sandbox_that_was_deleted(world: World, opener: Opener, box: str, tmp_path: Path) -> None:
    async with opener(Limits(look=0.2)):
        visit = await admitted(world, tmp_path / "pass", box)
        running = asyncio.create_task(visit.ssh("sleep 60"))
        await asyncio.sleep(1.0)
        assert not running.done()
        assert (await world.http.delete(f"/v1/sandboxes/{box}")).status_code in (200, 204)
        assert (await asyncio.wait_for(running, PATIENCE)).status == 255
        done = await visit.ssh("echo inside")
        assert (done.status, done.out) == (255, b"") and "no sandbox" in done.err


async def test_who_is_inside_keeps_it_awake(visit: Pass, world: World, box: str) -> None:
    """A session does; a connection on which nothing is open does not."""
    activity = world.control.plane.activity
    async with visit.connected() as connection:
        await connection.run("true")
        await asyncio.sleep(0.1)
        world.time.passes(30)
        assert activity.idle_seconds(box) >= 30
        async with connection.create_process("cat") as process:
            await asyncio.sleep(0.3)
            world.time.passes(30)
            assert activity.idle_seconds(box) == 0.0
            process.stdin.write_eof()
            await process.wait()


async def test_the_audit_knows(visit: Pass, world: World, box: str) -> None:
    await visit.ssh("true")
    entries = (await world.http.get("/v1/audit")).json()["entries"]
    path = f"/v1/sandboxes/{box}/ssh"
    seen = {(entry["method"], entry["actor"]) for entry in entries if entry["path"] == path}
    assert seen == {("POST", HELD), ("SSH", HELD)}


async def test_its_keys_are_kept_and_nobody_elses(visit: Pass, world: World) -> None:
    for name in ("ssh-authority.key", "ssh-host.key"):
        path = world.folder / "control" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_size == 32


async def test_a_certificate_outlives_the_server(
    world: World, opener: Opener, box: str, tmp_path: Path
) -> None:
    """Its keys are kept: what was given before it was started anew is good behind it."""
    async with opener(Limits()):
        visit = await admitted(world, tmp_path / "pass", box)
    await world.stop()
    await world.start()
    async with opener(Limits()) as address:
        assert not await refused(msgspec.structs.replace(visit, address=address))


async def test_many_who_say_nothing(visit: Pass) -> None:
    """200 half-open connections, and who comes then is served as fast as before."""
    async with AsyncExitStack() as stack:
        alone = await _how_long(visit)
        for _ in range(200):
            _, writer = await asyncio.open_connection(*visit.address)
            stack.callback(writer.close)
        crowded = [await _how_long(visit) for _ in range(3)]
    assert min(crowded) < alone + 1.0


async def _how_long(visit: Pass) -> float:
    began = time.perf_counter()
    async with visit.connected() as connection:
        assert (await connection.run("echo fine")).stdout == "fine\n"
    return time.perf_counter() - began


async def test_the_oldest_stranger_makes_room(world: World, opener: Opener, box: str, tmp_path: Path) -> None:
    async with opener(Limits(strangers_of_one_address=3)) as address:
        visit = await admitted(world, tmp_path / "pass", box)
        async with AsyncExitStack() as stack:
            readers = []
            for _ in range(5):
                reader, writer = await asyncio.open_connection(*address)
                stack.callback(writer.close)
                assert (await reader.readline()).startswith(b"SSH-2.0-PandaStack")
                readers.append(reader)
            for reader in readers[:2]:
                assert await _ended(reader)
            assert not await _ended(readers[4])
            assert (await visit.ssh("echo fine")).out == b"fine\n"


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(1.0):
            while await reader.read(65_536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def test_who_does_not_come_forward_is_cut(world: World, opener: Opener) -> None:
    async with opener(Limits(login=0.5)) as address:
        reader, writer = await asyncio.open_connection(*address)
        async with asyncio.timeout(5):
            while await reader.read(65_536):
                pass
        writer.close()


@pytest.mark.parametrize("defended", [True, False])
async def test_a_stranger_who_talks_without_end(world: World, opener: Opener, *, defended: bool) -> None:
    """Words that mean nothing, and are allowed. The control: without the limit all of them are heard."""
    words = b"\x02" + (32_000).to_bytes(4, "big") + bytes(32_000)
    padding = 8 - (5 + len(words)) % 8 + 8
    packet = (1 + len(words) + padding).to_bytes(4, "big") + bytes([padding]) + words + bytes(padding)
    async with opener(Limits() if defended else Limits(stranger_bytes=1 << 30)) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"SSH-2.0-x\r\n")
        for _ in range(100):
            writer.write(packet)
        assert await _ended(reader) is defended
        writer.close()


async def test_too_many_keys(world: World, opener: Opener, box: str, tmp_path: Path) -> None:
    """The good one comes too late; the control: with fewer before it, it does not."""
    async with opener(Limits(attempts=3)):
        visit = await admitted(world, tmp_path / "pass", box)
        good = (str(visit.folder / "key"), str(visit.folder / "key-cert.pub"))
        bad = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(8)]
        async with visit.connected(client_keys=[*bad[:2], good]) as connection:
            assert (await connection.run("echo inside")).stdout == "inside\n"
        with pytest.raises(asyncssh.DisconnectError):
            async with visit.connected(client_keys=[*bad, good]):
                pass


async def test_too_many_channels(world: World, opener: Opener, box: str, tmp_path: Path) -> None:
    async with opener(Limits(channels=3)):
        visit = await admitted(world, tmp_path / "pass", box)
        async with visit.connected() as connection, AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connection.create_process("cat"))
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run("true")
            await stack.aclose()
            assert (await connection.run("echo fine")).stdout == "fine\n"


@pytest.mark.parametrize("limits", [Limits(of_one_address=2), Limits(of_one_key=2)], ids=["address", "key"])
async def test_too_many_connections(
    world: World, opener: Opener, box: str, tmp_path: Path, limits: Limits
) -> None:
    async with opener(limits):
        visit = await admitted(world, tmp_path / "pass", box)
        async with visit.connected(), visit.connected():
            with pytest.raises((asyncssh.Error, OSError)):
                async with visit.connected() as connection:
                    await connection.run("true")
        async with visit.connected() as connection:
            assert (await connection.run("echo fine")).stdout == "fine\n"
