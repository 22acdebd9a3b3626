"""Exported snapshots: what comes out is what went in; what is not whole and sealed is refused."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from pandastack.errors import ArchiveRefused, NoSpace, PandastackError, SnapshotQuotaExceeded, SnapshotRefused
from pandastack.host import archives, fsck, snapshots
from pandastack.host.archives import Header
from pandastack.host.driver import SnapshotFiles
from pandastack.host.freight import Freight
from pandastack.host.fsck import State
from pandastack.host.kept import HELD_ROOT, RECORD, Kept
from pandastack.host.packing import packed
from pandastack.host.record import read_record
from pandastack.host.seals import KEY, Seals
from pandastack.host.templates import BareShelf, Templates
from pandastack.host.vault import Vault
from pandastack.model.host import ImportSpec, SnapshotReport
from pandastack.testing.process_driver import MACHINERY, ProcessDriver
from tests.host.kept import MIB, fill, flip, make_base, make_kept

pytestmark = pytest.mark.anyio

BASE = "k" * 24
HEAD = struct.Struct("<8sI32s")


class Server:
    """The vault of one state directory, and what goes out of it and comes in."""

    def __init__(self, state: Path, driver: ProcessDriver, keys: Path | None = None) -> None:
        self.state = state
        self.seals = Seals(state / KEY, keys, os.urandom)
        self.vault = Vault(driver, state)
        self.vault.open()
        self.freight = Freight(self.vault, Templates(BareShelf([], state)), driver, self.seals)

    async def export(self, snapshot_id: str) -> bytes:
        async with self.freight.export_snapshot(snapshot_id) as content:
            return b"".join([piece async for piece in content])

    async def take_in(self, data: bytes, snapshot_id: str = "new", most: int | None = None) -> SnapshotReport:
        async with aclosing(pieces(data)) as content:
            return await self.freight.import_snapshot(ImportSpec(snapshot_id, most), content)

    def content(self, snapshot_id: str) -> dict[str, bytes]:
        """Every file that a restore needs, but what is noted of it on its host."""
        _, files = self.vault.whole(snapshot_id)
        folders = [files.directory, *([files.base.directory] if files.base else [])]
        paths = [path for folder in folders for path in folder.iterdir()]
        return {
            f"{path.parent.parent.name}/{path.name}": path.read_bytes()
            for path in paths
            if path.name != RECORD and (path.parent.parent.name, path.name) != ("s", "snapshot.json")
        }

    def left(self) -> set[str]:
        """All below `s` and `b`, drafts too."""
        return {path.name for name in "sb" for path in (self.state / name).iterdir()}


async def pieces(data: bytes, size: int = 70_001) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with one snapshot, `s`, over a base."""
    state = tmp_path_factory.mktemp("original")
    asyncio.run(_made(state))
    return state


async def _made(state: Path) -> None:
    await make_kept(state, "s", await make_base(state, BASE))


@pytest.fixture
async def old(original: Path, process_driver: ProcessDriver) -> AsyncIterator[Server]:
    """The server that has it."""
    server = Server(original, process_driver)
    yield server
    await server.vault.drop("new")
    await server.vault.tidy([])


@pytest.fixture(scope="module")
def file(original: Path) -> bytes:
    """What it exports."""
    kept = read_record(original / "s" / "s" / RECORD, Kept)
    assert kept and kept.prepared.snapshot
    return b"".join(packed(kept, kept.prepared.snapshot, Seals(original / KEY, None, os.urandom)))


@pytest.fixture
def new(tmp_path: Path, process_driver: ProcessDriver, old: Server, file: bytes) -> Server:
    """It has nothing but the key of the old one."""
    keys = tmp_path / "keys"
    keys.mkdir()
    shutil.copy(old.state / KEY, keys / "of-the-old-one")
    return Server(tmp_path / "new", process_driver, keys)


async def refused(
    server: Server, data: bytes, kind: type[PandastackError] = ArchiveRefused
) -> PandastackError:
    """The error with which it is refused, and nothing of it is left."""
    before = server.left()
    with pytest.raises(kind) as caught:
        await server.take_in(data)
    assert server.left() == before and server.vault.find("new") is None
    return caught.value


def header_of(file: bytes) -> tuple[Header, int]:
    """The header, and where the frames begin."""
    size = HEAD.unpack_from(file)[1]
    return msgspec.json.decode(file[HEAD.size : HEAD.size + size], type=Header), HEAD.size + size


async def test_what_comes_out_is_what_went_in(old: Server, file: bytes, new: Server) -> None:
    report = await new.take_in(file)
    was = old.vault.find("s")
    assert was and report == structs.replace(was, id="new", size_bytes=report.size_bytes)
    assert new.content("new") == old.content("s")
    assert {each.state for each in fsck.check(new.state, lambda *_: None)} == {State.OK}
    memory = new.vault.whole("new")[1].base
    assert memory and memory.memory.stat().st_blocks * 512 <= 4 * MIB, "holes stay holes"
    there, here = (server.vault.prepare(name) for server, name in ((old, "s"), (new, "new")))
    assert (here.template, here.env, here.workdir) == (there.template, there.env, there.workdir)
    again = Server(new.state, new.vault._driver)  # type: ignore[arg-type]  # as after a restart
    assert again.vault.find("new") == report
    assert len(file) < sum(map(len, old.content("s").values())), "zeros do not travel"
    assert str(old.state).encode() not in file[: header_of(file)[1]], "no path of the host"


async def test_the_key_is_made_once_and_nobody_else_reads_it(old: Server, file: bytes) -> None:
    key = old.state / KEY
    assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)
    assert await old.export("s") == file
    assert old.seals.seal(b"x") == Seals(key, None, os.urandom).seal(b"x")


async def test_what_a_host_has_already_is_not_written_twice(old: Server, file: bytes) -> None:
    await old.take_in(file)
    assert old.left() == {"s", "new", BASE}
    assert old.content("new") == old.content("s")


async def test_another_base_of_the_same_name_is_another(old: Server, file: bytes, new: Server) -> None:
    """Two hosts bake the same template: the names are the same, the memories are not."""
    other = await make_base(new.state, BASE)
    before = other.memory.read_bytes()
    await new.take_in(file)
    assert new.content("new") == old.content("s") and other.memory.read_bytes() == before
    _, files = new.vault.whole("new")
    assert files.base and files.base.directory.name != BASE
    fill(files.base.memory, 40 * MIB, 7 * MIB)
    assert [each.state for each in fsck.check(new.state, lambda *_: None)].count(State.DAMAGED) == 2


async def test_it_lies_over_a_base_of_its_own_as_long_as_it_is_there(file: bytes, new: Server) -> None:
    await new.take_in(file)
    await new.vault.tidy([])
    assert len(new.left()) == 2
    await new.vault.drop("new")
    await new.vault.tidy([])
    assert new.left() == set()


async def test_a_seal_of_nobody_known_is_refused(
    tmp_path: Path, process_driver: ProcessDriver, file: bytes, new: Server
) -> None:
    stranger = Server(tmp_path / "stranger", process_driver)
    error = await refused(stranger, file)
    assert "archive_keys" in error.message and KEY in error.message
    await new.take_in(file)  # the same file, where its key is known


async def test_each_flipped_bit_is_refused(file: bytes, new: Server) -> None:
    dice = random.Random(7)  # noqa: S311  # the same places each time
    _, frames = header_of(file)
    damaged = bytearray(file)
    for at in [*range(0, frames, frames // 9), *(dice.randrange(frames, len(file)) for _ in range(15))]:
        bit = 1 << dice.randrange(8)
        damaged[at] ^= bit
        error = await refused(new, bytes(damaged))
        damaged[at] ^= bit
        assert at < frames or "damaged" in error.message or "cut short" in error.message
    await new.take_in(bytes(damaged))


async def test_a_damage_is_told_by_file_and_chunk(file: bytes, new: Server) -> None:
    header, frames = header_of(file)
    names = [part.name for part in header.own.parts]
    damaged = bytearray(file)
    at, number, place = frames, -1, 0
    while (names[number] if number >= 0 else "", place) != ("pages", 5 * MIB):
        number, place, _, stored = struct.unpack_from("<HQII", file, at)
        at += 18 + stored
    damaged[at - 1] ^= 4
    assert (await refused(new, bytes(damaged))).details == {"file": "pages", "chunk": 1}


async def test_what_was_cut_short_is_refused(file: bytes, new: Server) -> None:
    _, frames = header_of(file)
    for length in (0, 7, HEAD.size, frames - 1, frames, len(file) // 3, len(file) - 33, len(file) - 1):
        assert "cut short" in (await refused(new, file[:length])).message


async def test_what_follows_the_end_is_refused(file: bytes, new: Server) -> None:
    assert "follows" in (await refused(new, file + b"\0")).message


def forged(server: Server, file: bytes, **changes: object) -> bytes:
    """The file with another header, sealed as it should be."""
    header, frames = header_of(file)
    return archives.head(structs.replace(header, **changes), server.seals) + file[frames:]


async def test_a_header_is_not_believed_beyond_measure(old: Server, file: bytes) -> None:
    """With its right seal too."""
    header, _ = header_of(file)
    huge = header.own.parts[0]
    huge = structs.replace(huge, mark=structs.replace(huge.mark, size=1 << 50))
    for changes in (
        {"own": structs.replace(header.own, parts=(huge, *header.own.parts[1:]))},
        {"own": structs.replace(header.own, parts=header.own.parts[:-1])},
        {"base": structs.replace(header.base, parts=header.base.parts[1:])} if header.base else {},
        {"own_data_bytes": header.own_data_bytes - MIB},
    ):
        await refused(old, forged(old, file, **changes))
    named = structs.replace(header.own.parts[0], name="../x")
    await refused(
        old, forged(old, file, own=structs.replace(header.own, parts=(named, *header.own.parts[1:])))
    )
    await refused(old, HEAD.pack(b"PNDASNP1", 1 << 31, bytes(32)) + file)
    await refused(old, forged(old, file, own_data_bytes=1 << 45), NoSpace)
    await old.take_in(forged(old, file))


async def test_what_does_not_fit_is_refused_before_anything_is_written(old: Server, file: bytes) -> None:
    header, frames = header_of(file)
    other = structs.replace(header.own.manifest, machinery=structs.replace(MACHINERY, version="0"))
    changed = forged(old, file[:frames], own=structs.replace(header.own, manifest=other))
    assert "made with version '0'" in (await refused(old, changed, SnapshotRefused)).message
    with pytest.raises(SnapshotQuotaExceeded):
        await old.take_in(file, most=header.own_data_bytes - 1)
    await old.take_in(file, most=header.own_data_bytes)


async def test_what_is_damaged_is_not_exported(old: Server, kept: SnapshotFiles) -> None:
    assert kept.base
    for path in (kept.memory, kept.base.memory, kept.base.directory / HELD_ROOT):
        flip(path, MIB)
        with pytest.raises(SnapshotRefused, match=path.name):
            await old.export("s")
        flip(path, MIB)
    snapshots.check_sizes(kept, snapshots.read_manifest(kept))


@pytest.fixture
def kept(old: Server) -> SnapshotFiles:
    return old.vault.whole("s")[1]


async def test_a_sender_that_leaves_leaves_nothing(file: bytes, new: Server) -> None:
    stalled = asyncio.Event()

    async def some() -> AsyncIterator[bytes]:
        async for piece in pieces(file[: len(file) * 2 // 3]):
            yield piece
        stalled.set()
        await asyncio.Event().wait()

    importing = asyncio.ensure_future(new.freight.import_snapshot(ImportSpec("new"), some()))
    await stalled.wait()
    assert len(new.left()) == 2, "what is being written"
    importing.cancel()
    await asyncio.wait([importing])
    assert importing.cancelled() and new.left() == set()
