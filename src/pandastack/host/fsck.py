"""A check of all snapshots in a host's state directory, whether a host runs on it or not.

Nothing is changed, unless `remove` is called for what was found; what is damaged is noted beside it, for a
host that runs to know. Files are found by their place, not by the paths that were noted: a state directory
that was copied elsewhere is checked too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from msgspec import Struct, structs

from pandastack.errors import NoSpace, SnapshotRefused
from pandastack.host import snapshots
from pandastack.host.kept import DAMAGE, HELD_ROOT, RECORD, Damage, Kept, checked, folders_of
from pandastack.host.prune import size_on_disk
from pandastack.host.publish import leftovers, taken_away
from pandastack.host.record import read_record, write_record
from pandastack.host.vm import RECORD as MACHINE_RECORD
from pandastack.host.vm import VmRecord

Progress = Callable[[int, int, str], None]
"""Is told how many bytes of how many were read, and of which folder."""


class State(StrEnum):
    """What was found of a folder."""

    OK = "ok"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    """A killed program left it; the next start of the host removes it."""
    UNREFERENCED = "unreferenced"
    """A base that is whole and that nothing lies over; the host removes it."""


class Finding(Struct, frozen=True, kw_only=True):
    """One snapshot, or one base: what several snapshots lie over."""

    kind: str
    """`snapshot` or `base`."""
    id: str
    state: State
    path: str
    vm: str = ""
    """The machine that a snapshot was taken of."""
    size_bytes: int = 0
    """What its files take on the disk, those that others have too included."""
    file: str | None = None
    chunk: int | None = None
    """The first file that is damaged, and which 4 MiB of it, counted from 0, as far as it is known."""
    reason: str | None = None


def check(state: Path, progress: Progress, *, in_use: bool = False) -> list[Finding]:
    """Read all that is kept below `state`: what several snapshots lie over first, then the snapshots.

    While a host works on the directory (`in_use`), what it is just making is passed over.
    """
    bases, kept = _folders(state / "b"), _folders(state / "s")
    drafts = [path for name in ("b", "s") for path in leftovers(state / name)]
    drafts += [folder for folder in kept if not (folder / RECORD).exists()]
    whole = [folder for folder in (*bases, *kept) if folder not in drafts]
    total, done = sum(map(_amount, whole)), 0
    found = {}
    for folder in whole:
        try:
            for size in _parts(folder, is_base=folder in bases):
                done = min(done + size, total)
                progress(done, total, folder.name)
            found[folder] = _finding(folder, State.OK)
        except SnapshotRefused as error:
            if not folder.exists():
                continue  # a host that runs has dropped it meanwhile
            found[folder] = _finding(folder, State.DAMAGED, error)
        _note(folder, found[folder])
    there = {folder: finding for folder, finding in found.items() if folder.exists()}
    used = _bases_in_use(there, state)
    judged = [_judged(finding, there, used) for finding in there.values()]
    return judged if in_use else judged + [_finding(folder, State.INCOMPLETE) for folder in drafts]


def remove(findings: Iterable[Finding]) -> None:
    """Delete what was found; a crash leaves what is swept. No host may work on the directory."""
    for finding in findings:
        shutil.rmtree(taken_away(Path(finding.path)))


def _folders(parent: Path) -> list[Path]:
    return sorted(folder for folder in parent.glob("*") if not folder.name.startswith("."))


def _amount(folder: Path) -> int:
    """Bytes of data that there are to read, about."""
    try:
        names = snapshots.read_manifest(snapshots.files_in(folder)).files
    except SnapshotRefused:
        return 0
    paths = [folder / name for name in (*names, HELD_ROOT)]
    return sum(size_on_disk(path) for path in paths if path.exists())


def _parts(folder: Path, *, is_base: bool) -> Iterator[int]:
    """Read one folder: the bytes of data of each part. SnapshotRefused for the first damage."""
    yield from checked(folder)
    if not is_base and read_record(folder / RECORD, Kept) is None:
        raise SnapshotRefused(f"{folder.name}: {RECORD} cannot be read.", file=RECORD)


def _finding(folder: Path, state: State, error: SnapshotRefused | None = None) -> Finding:
    kept = read_record(folder / RECORD, Kept)
    details = error.details if error else {}
    return Finding(
        kind="base" if folder.parent.name == "b" else "snapshot",
        id=folder.name,
        state=state,
        path=str(folder),
        vm=kept.report.vm if kept else "",
        size_bytes=size_on_disk(folder),
        file=details.get("file"),
        chunk=details.get("chunk"),
        reason=error.message if error else None,
    )


def _note(folder: Path, finding: Finding) -> None:
    """As well as it can be: a disk may be full, or read only. A host that runs hears of damage alone."""
    with suppress(OSError, NoSpace):
        if finding.state is State.OK:
            (folder / DAMAGE).unlink(missing_ok=True)
            return
        write_record(folder / DAMAGE, Damage(finding.reason or "", finding.file, finding.chunk))


def _judged(finding: Finding, found: dict[Path, Finding], used: set[str]) -> Finding:
    """The finding of a folder, given what was found of the others and which bases are `used`."""
    if finding.state is not State.OK:
        return finding
    if finding.kind == "base":
        return finding if finding.id in used else structs.replace(finding, state=State.UNREFERENCED)
    folder = Path(finding.path)
    base = _base_of(folder)
    below = found.get(folder.parent.parent / "b" / base) if base else None
    if base and below is None:
        return structs.replace(finding, state=State.DAMAGED, reason=f"What it lies over, {base}, is gone.")
    if below and below.state is State.DAMAGED:
        return structs.replace(
            finding, state=State.DAMAGED, file=below.file, chunk=below.chunk, reason=below.reason
        )
    return finding


def _base_of(folder: Path) -> str | None:
    try:
        return snapshots.read_manifest(snapshots.files_in(folder)).base
    except SnapshotRefused:
        return None


def _bases_in_use(found: dict[Path, Finding], state: Path) -> set[str]:
    """The names of those that snapshots lie over and machines were started from."""
    records = (read_record(home / MACHINE_RECORD, VmRecord) for home in (state / "v").glob("*"))
    started = [record.prepared for record in records if record and record.prepared]
    kept = (read_record(folder / RECORD, Kept) for folder in found)
    prepared = [*started, *(each.prepared for each in kept if each)]
    names = {folder.name for each in prepared for folder in folders_of(each) if folder.parent.name == "b"}
    return names | {base for folder in found if (base := _base_of(folder))}
