"""Damage of kept snapshots: told by file and place, refused before anything starts, found in time."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from pandastack.errors import SnapshotRefused
from pandastack.host import fsck, marks, snapshots, sparse
from pandastack.host.driver import SnapshotFiles
from pandastack.host.fsck import Finding, State
from pandastack.host.kept import RECORD, Damage
from pandastack.host.marks import CHUNK, FileMark
from pandastack.host.scrub import DAY_SECONDS, Scrub
from pandastack.host.vault import Vault
from pandastack.testing.process_driver import MACHINERY, ProcessDriver
from tests.host.kept import MIB, fill, flip, make_base, make_kept

pytestmark = pytest.mark.anyio

CUTS: dict[str, Callable[[int], int]] = {
    "one byte": lambda size: size - 1,
    "half": lambda size: size // 2,
    "empty": lambda size: 0,
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def base(state: Path) -> SnapshotFiles:
    return await make_base(state, "k" * 24)


@pytest.fixture
async def kept(state: Path, base: SnapshotFiles) -> SnapshotFiles:
    return await make_kept(state, "s", base)


def opened(driver: ProcessDriver, state: Path) -> Vault:
    vault = Vault(driver, state)
    vault.open()
    return vault


def check(state: Path, *, in_use: bool = False) -> dict[str, Finding]:
    progress: list[tuple[int, int]] = []
    found = fsck.check(state, lambda done, total, what: progress.append((done, total)), in_use=in_use)
    assert all(0 <= done <= total for done, total in progress)
    assert sorted(progress) == progress
    return {Path(finding.path).name: finding for finding in found}


def files_of(folder: Path) -> list[Path]:
    marked = snapshots.read_manifest(snapshots.files_in(folder)).files
    return [*(folder / name for name in marked), folder / "snapshot.json"]


async def test_whole_ones_are_ok(state: Path, kept: SnapshotFiles) -> None:
    found = check(state)
    assert {name: each.state for name, each in found.items()} == {"k" * 24: State.OK, "s": State.OK}
    assert (found["s"].kind, found["s"].vm, found["k" * 24].kind) == ("snapshot", "box", "base")


async def test_each_flipped_bit_is_found_in_its_place(state: Path, kept: SnapshotFiles) -> None:
    assert kept.base
    dice = random.Random(7)  # noqa: S311  # the same places each time
    names = set()
    for path in files_of(kept.directory) + files_of(kept.base.directory):
        names.add(path.name)
        for _ in range(6):
            at, bit = dice.randrange(path.stat().st_size), dice.randrange(8)
            flip(path, at, bit)
            found = check(state)[path.parent.name]
            flip(path, at, bit)
            place = None if path.name == "snapshot.json" else at // CHUNK
            assert (found.state, found.file, found.chunk) == (State.DAMAGED, path.name, place), (path, at)
            assert found.reason
            assert path.name in found.reason
    assert names == {
        *("pages", "state", "layer-0.qcow2", "layer-1.qcow2", RECORD, "snapshot.json"),
        *("memory", "disk.qcow2"),
    }
    assert {each.state for each in check(state).values()} == {State.OK}


async def test_a_flipped_bit_of_the_root_disk_is_found(state: Path, kept: SnapshotFiles) -> None:
    assert kept.base
    flip(kept.base.directory / "root", 1_500_000)
    found = check(state)
    assert {(each.state, each.file) for each in found.values()} == {(State.DAMAGED, "root")}


async def test_a_damage_says_where(kept: SnapshotFiles) -> None:
    flip(kept.memory, 9 * MIB)
    with pytest.raises(
        SnapshotRefused, match=r"s: pages: chunk 2 \(bytes 8388608 to 9449528\) is damaged"
    ) as caught:
        await snapshots.verify(kept, snapshots.read_manifest(kept))
    assert caught.value.details == {"file": "pages", "chunk": 2}


@pytest.mark.parametrize("cut", CUTS)
async def test_what_was_cut_is_refused_before_anything_starts(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver, cut: str
) -> None:
    assert kept.base
    vault = opened(process_driver, state)
    for path in files_of(kept.directory) + files_of(kept.base.directory):
        content = path.read_bytes()
        os.truncate(path, CUTS[cut](len(content)))
        with pytest.raises(SnapshotRefused, match=path.name):
            vault.prepare("s")
        assert check(state)[path.parent.name].file == path.name
        path.write_bytes(content)
        vault.prepare("s")
    kept.layers[0].unlink()
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        vault.prepare("s")


async def test_the_disk_is_left_where_the_memory_does_not_fit(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    vault = opened(process_driver, state)
    await snapshots.seal(
        kept, structs.replace(MACHINERY, version="0"), "none", 1, 64, also=(kept.directory / RECORD,)
    )
    with pytest.raises(SnapshotRefused, match=r"made with version '0', .* booted: disk_only\.$"):
        vault.prepare("s")
    await vault.prepare_cold("s")
    flip(kept.layers[0], 5 * MIB)
    with pytest.raises(SnapshotRefused, match=r"layer-0\.qcow2: chunk 1 .* is damaged\.$"):
        await vault.prepare_cold("s")


async def test_the_state_of_the_devices_is_read_each_time(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    flip(kept.state, 11_111)
    with pytest.raises(SnapshotRefused, match="state: chunk 0"):
        opened(process_driver, state).prepare("s")


async def test_a_refusal_names_another_that_is_whole(
    state: Path, base: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    for second, (name, vm) in enumerate([("a", "box"), ("b", "box"), ("c", "box"), ("other", "x")]):
        files = await make_kept(state, name, base, vm=vm)
        os.utime(files.directory / RECORD, (second, second))
        if name in "bc":
            os.truncate(files.memory, 10)
    vault = opened(process_driver, state)
    with pytest.raises(SnapshotRefused, match="The one before, a of 1970-01-01 00:00:00 UTC, is good"):
        vault.prepare("c")
    os.truncate(state / "s" / "other" / "pages", 10)
    with pytest.raises(SnapshotRefused, match=r"had 9449529\. Its disk alone can be booted: disk_only\.$"):
        vault.prepare("other")


async def test_manifests_of_the_first_format_are_read(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    """They had one hash a file and no seal."""
    manifest = snapshots.read_manifest(kept)
    old = msgspec.to_builtins(structs.replace(manifest, format=1, seal=""))
    del old["seal"]
    old["files"] = {}
    for path in (kept.memory, kept.state, *kept.layers):
        size = path.stat().st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for offset, piece in sparse.chunks(file.fileno()):
                digest.update(offset.to_bytes(8, "little") + piece)
        old["files"][path.name] = {"size": size, "sha256": digest.hexdigest()}
    kept.manifest.write_bytes(msgspec.json.encode(old))
    await snapshots.verify(kept, snapshots.read_manifest(kept))
    opened(process_driver, state).prepare("s")
    assert check(state)["s"].state is State.OK
    flip(kept.layers[1], 5 * MIB + 7)
    found = check(state)["s"]
    assert (found.state, found.file, found.chunk) == (State.DAMAGED, "layer-1.qcow2", None)


@pytest.mark.parametrize("size", [0, 1, MIB, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_holes_are_zeros(tmp_path: Path, size: int) -> None:
    hole, zeros = tmp_path / "hole", tmp_path / "zeros"
    with hole.open("wb") as file:
        file.truncate(size)
    zeros.write_bytes(bytes(size))
    assert marks.mark(hole) == marks.mark(zeros) == FileMark(size, chunks=("",) * -(-size // CHUNK))
    assert sum(marks.checked(zeros, marks.mark(hole))) == 0
    if size:
        flip(zeros, size - 1)
        with pytest.raises(SnapshotRefused, match=f"chunk {(size - 1) // CHUNK} "):
            list(marks.checked(zeros, marks.mark(hole)))


class Day:
    """A clock that is told."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def __call__(self) -> int:
        return int(self.seconds * 1e9)


async def test_damage_is_found_within_a_day_and_remembered(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    vault, clock = opened(process_driver, state), Day()
    scrub = Scrub(vault, clock, bytes_per_second=1 << 40)
    flip(kept.memory, 5 * MIB)
    await scrub.look_through()
    assert vault.reports()[0].damaged is None  # it was written within the day
    clock.seconds += DAY_SECONDS + 1
    await scrub.look_through()
    for each in (vault, opened(process_driver, state)):
        report = each.find("s")
        assert report
        assert report.damaged == "s: pages: chunk 1 (bytes 4194304 to 8388607) is damaged."
        with pytest.raises(SnapshotRefused, match="chunk 1"):
            each.prepare("s")
    flip(kept.memory, 5 * MIB)
    scrub = Scrub(vault, clock, bytes_per_second=1 << 40)
    await scrub.look_through()
    assert vault.reports()[0].damaged  # not twice a day, whoever looks
    clock.seconds += DAY_SECONDS + 1
    await scrub.look_through()
    assert vault.reports()[0].damaged is None
    vault.prepare("s")
    assert opened(process_driver, state).reports()[0].damaged is None


async def test_damage_of_a_base_is_that_of_all_that_lie_over_it(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    assert kept.base
    other = await make_kept(state, "free", await make_base(state, "m" * 24))
    vault, clock = opened(process_driver, state), Day()
    clock.seconds += DAY_SECONDS + 1
    flip(kept.base.memory, 13 * MIB)
    await Scrub(vault, clock, bytes_per_second=1 << 40).look_through()
    assert {report.id: report.damaged for report in vault.reports()} == {
        "s": f"{'k' * 24}: memory: chunk 3 (bytes 12582912 to 16777215) is damaged.",
        "free": None,
    }
    with pytest.raises(SnapshotRefused, match=f"memory: chunk 3 .*, {other.directory.name} of .* is good"):
        vault.prepare("s")
    found = check(state)
    assert (found["s"].state, found["s"].file, found["s"].chunk) == (State.DAMAGED, "memory", 3)
    assert found["free"].state is State.OK


async def test_what_goes_meanwhile_is_no_damage(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    vault, clock = opened(process_driver, state), Day()
    clock.seconds += DAY_SECONDS + 1
    scrub = Scrub(vault, clock, bytes_per_second=1 << 40)
    folders = vault.folders()
    await vault.drop("s")
    assert kept.directory in folders
    vault.note(kept.directory, Damage("it cannot be read"))
    await scrub.look_through()
    assert vault.reports() == []
    assert check(state)["k" * 24].state is State.UNREFERENCED


async def test_bases_go_when_nothing_needs_them(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    assert kept.base
    unused = await make_base(state, "u" * 24)
    assert check(state)["u" * 24].state is State.UNREFERENCED
    vault = opened(process_driver, state)
    await vault.tidy([])
    assert not unused.directory.exists()
    prepared = vault.prepare("s")
    await vault.drop("s")
    await vault.tidy([prepared])
    assert kept.base.memory.exists()
    await vault.tidy([])
    assert list((state / "b").iterdir()) == []


async def test_bases_stay_while_a_record_cannot_be_read(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    assert kept.base
    (kept.directory / RECORD).write_bytes(b"{")
    vault = opened(process_driver, state)
    await vault.tidy([])
    assert kept.base.memory.exists()
    assert check(state)["s"].file == RECORD


async def test_what_was_half_made_is_told_when_nobody_makes_it(state: Path, kept: SnapshotFiles) -> None:
    for name in (".t.draft", "passing"):
        (state / "s" / name).mkdir()
        fill(state / "s" / name / "pages", MIB)
    found = check(state)
    assert {name for name, each in found.items() if each.state is State.INCOMPLETE} == {".t.draft", "passing"}
    assert set(check(state, in_use=True)) == {"s", "k" * 24}


async def test_what_its_host_drops_while_it_is_read_is_not_damaged(state: Path, kept: SnapshotFiles) -> None:
    def drop(_done: int, _total: int, what: str) -> None:
        if what == kept.directory.name:
            shutil.rmtree(kept.directory, ignore_errors=True)

    assert [finding.kind for finding in fsck.check(state, drop, in_use=True)] == ["base"]
    assert not kept.directory.exists()


async def test_a_base_that_is_gone_is_damage(state: Path, kept: SnapshotFiles) -> None:
    assert kept.base
    kept.base.directory.rename(state / "elsewhere")
    assert check(state)["s"].state is State.DAMAGED


async def test_what_was_found_can_be_removed(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    assert kept.base
    await make_kept(state, "t", kept.base)
    flip(kept.memory, 1)
    fsck.remove(each for each in check(state).values() if each.state is State.DAMAGED)
    assert [report.id for report in opened(process_driver, state).reports()] == ["t"]
    assert {each.state for each in check(state).values()} == {State.OK}


async def test_a_host_that_runs_hears_of_what_a_check_has_found(
    state: Path, kept: SnapshotFiles, process_driver: ProcessDriver
) -> None:
    vault = opened(process_driver, state)
    scrub = Scrub(vault, time.time_ns)
    flip(kept.memory, 5)
    found = check(state, in_use=True)["s"]
    (before,) = vault.reports()
    assert before.damaged is None
    await scrub.look_through()
    (after,) = vault.reports()
    assert after.damaged == found.reason
    with pytest.raises(SnapshotRefused, match="is damaged"):
        vault.prepare("s")
    flip(kept.memory, 5)
    assert check(state)["s"].state is State.OK
    (mended,) = opened(process_driver, state).reports()
    assert mended.damaged is None
