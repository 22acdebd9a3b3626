"""An exported snapshot becomes one of this host: judged by its sealed header, written, compared, published.

What it lies over is written too, unless this host has it already, told by its hashes and never by its name:
two hosts that bake the same template get two different memories. So such a base has a name of its own here,
by which no fork server is found that is a template's.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import structs

from pandastack.errors import ArchiveRefused, NoSpace, SnapshotQuotaExceeded, SnapshotRefused
from pandastack.host import archives, layers, marks, snapshots
from pandastack.host.archives import Frame, Header, Intake, Part, Reader, Side
from pandastack.host.driver import Driver, MachineConfig, SnapshotFiles
from pandastack.host.kept import EMPTY, HELD_ROOT, RECORD, Kept, hold, own_size
from pandastack.host.marks import CHUNK
from pandastack.host.packing import BESIDE, side_of
from pandastack.host.publish import new_directory
from pandastack.host.record import write_record
from pandastack.host.room import FULL_BYTES
from pandastack.host.seals import Seals
from pandastack.host.templates import Prepared, Templates
from pandastack.host.vault import Vault
from pandastack.model.host import ImportSpec

WHOLE = {"memory", "state", "disk.qcow2"}
"""The files that the manifest of a whole snapshot tells of."""


class Unpacking:
    """The import of one snapshot."""

    def __init__(
        self, spec: ImportSpec, vault: Vault, templates: Templates, driver: Driver, seals: Seals
    ) -> None:
        self._spec = spec
        self._vault = vault
        self._templates = templates
        self._driver = driver
        self._seals = seals
        self._reader = Reader()

    def run(self) -> Intake[Kept]:
        """Returns when all is on the disk under its name; closed before, or on any error, nothing is left.

        Errors: ArchiveRefused, SnapshotRefused, SnapshotQuotaExceeded, NoSpace.
        """
        header = yield from self._reader.header(self._seals)
        check_shape(header)
        config = _config(header, self._vault.home_of(self._spec.id))
        snapshots.check_fits(header.own.manifest, self._driver.machinery(config))
        with new_directory(self._vault.home_of(self._spec.id)) as own:
            held = yield from self._files(header, own)
            return self._noted(header, own, held)

    def _files(self, header: Header, own: Path) -> Intake[Path | None]:
        """Take all files: those of its own into `own`, and what it lies over, whose folder is returned."""
        found = self._held_already(header.base, header.template.name) if header.base else None
        self._check_room(header, writes_base=header.base is not None and found is None)
        if header.base is None or found is not None:
            yield from self._filled(header, own, None)
            return found
        held = self._vault.base_of(sha256(msgspec.json.encode(header.base)).hexdigest()[:24])
        if held.exists():
            raise SnapshotRefused(
                f"What the snapshot lies over is on this host, {held.name}, and is damaged."
            )
        with new_directory(held) as base:
            yield from self._filled(header, own, base)
            snapshots.files_in(base).manifest.write_bytes(msgspec.json.encode(header.base.manifest))
        return held

    def _filled(self, header: Header, own: Path, base: Path | None) -> Intake[None]:
        """Write the files of one side into `own`, those of the other into `base` if there is one, and compare
        them.
        """
        frame = yield from self._reader.frame()
        sides: list[tuple[Side, Path | None, int]] = [(header.own, own, header.own_data_bytes)]
        if header.base is not None:
            sides.append((header.base, base, header.base_data_bytes))
        number = 0
        for side, folder, left in sides:
            for part in side.parts:
                frame, used = yield from self._file(frame, number, part, folder, left)
                left, number = left - used, number + 1
        if not frame.is_last:
            raise ArchiveRefused("The file is damaged: one of its frames is out of its place.")
        yield from self._reader.end()

    def _file(
        self, frame: Frame, number: int, part: Part, folder: Path | None, most: int
    ) -> Intake[tuple[Frame, int]]:
        """Write and compare one file, of `most` bytes of data: the frame behind it, and how much it had.
        Without a folder its data are passed over.
        """
        used = done = 0
        with ExitStack() as stack:
            file = stack.enter_context(_sparse(folder / part.name, part)) if folder else None
            while frame.part == number:
                used += frame.size
                if frame.offset < done or frame.offset + frame.size > part.mark.size or used > most:
                    raise archives.damaged_at(part, min(frame.offset, part.mark.size))
                stored = yield from self._reader.stored(frame)
                if file is not None:
                    file.seek(frame.offset)
                    file.write(archives.data_of(frame, stored, part))
                done = frame.offset + frame.size
                frame = yield from self._reader.frame()
        if folder is not None:
            archives.verify(folder / part.name, part)
        return frame, used

    def _held_already(self, base: Side, template: str) -> Path | None:
        self._hold_template(base, template)
        return next((folder for folder in self._vault.sound_bases() if _is(folder, base)), None)

    def _hold_template(self, base: Side, name: str) -> None:
        """Have the snapshot of the template among what is held, if it is the one that is looked for."""
        prepared = self._templates.ready(name)
        if prepared is None or prepared.snapshot is None:
            return
        with suppress(OSError, SnapshotRefused):  # damaged, or gone meanwhile: it is no help
            if snapshots.read_manifest(prepared.snapshot) == base.manifest:
                hold(prepared, prepared.snapshot, self._vault.base_of(prepared.snapshot.directory.name))

    def _check_room(self, header: Header, *, writes_base: bool) -> None:
        own, most = header.own_data_bytes, self._spec.most_bytes
        if most is not None and own > most:
            raise SnapshotQuotaExceeded(
                f"The snapshot has {own} bytes, and the workspace's snapshots may take {max(0, most)} more."
            )
        needed = own + (header.base_data_bytes if writes_base else 0)
        free = shutil.disk_usage(self._vault.home_of(self._spec.id).parent).free - FULL_BYTES
        if needed > free:
            raise NoSpace(
                f"The snapshot needs {needed} bytes, and the disk has {max(0, free)} free. "
                "Free some space and try again; nothing was changed."
            )

    def _noted(self, header: Header, own: Path, held: Path | None) -> Kept:
        """Write what is noted of it on this host, the manifest last."""
        home = self._vault.home_of(self._spec.id)
        prepared = Prepared(
            header.template,
            _config(header, held or home),
            _files_of(header, home, held),
            env=header.env,
            workdir=header.workdir,
            user=header.user,
            guest_ip=header.guest_ip,
        )
        report = structs.replace(
            header.report, id=self._spec.id, size_bytes=own_size(own), durable=True, held=False, damaged=None
        )
        kept = Kept(report, prepared)
        write_record(own / RECORD, kept)
        files = {part.name: part.mark for part in header.own.parts} | {RECORD: marks.mark(own / RECORD)}
        manifest = structs.replace(
            header.own.manifest, files=files, base=held.name if held else None, format=snapshots.FORMAT
        )
        (own / "snapshot.json").write_bytes(msgspec.json.encode(snapshots.sealed(manifest)))
        return kept


def _is(folder: Path, base: Side) -> bool:
    try:
        return side_of(folder) == base
    except (OSError, SnapshotRefused):
        return False


def check_shape(header: Header) -> None:
    """ArchiveRefused for a header that tells of other files than a snapshot has, or of larger ones."""
    own, base = header.own, header.base
    names = [part.name for part in own.parts]
    many = range(len(names) - 2)
    differing = {"pages", "state", *(layers.below(number) for number in many)}
    fits = len(set(names)) == len(names) and set(names) == (differing if base else WHOLE)
    if base is not None:
        below = [part.name for part in base.parts]
        fits = fits and len(set(below)) == len(below) and WHOLE <= set(below) <= WHOLE | {*BESIDE}
        fits = fits and base.manifest.base is None and {EMPTY, HELD_ROOT} <= set(below)
    most = max(own.manifest.memory_mb << 21, header.disk_limit_bytes)
    if not fits or not all(_is_sane(part, most) for side in (own, base) if side for part in side.parts):
        raise ArchiveRefused("The header of the file tells of files that no snapshot has.")


def _is_sane(part: Part, most: int) -> bool:
    chunks = part.mark.chunks
    whole = part.mark.sha256 or part.content
    counted = len(chunks) == -(-part.mark.size // CHUNK) if chunks is not None else bool(whole)
    return 0 <= part.mark.size <= most and counted


def _sparse(path: Path, part: Part) -> BinaryIO:
    """A new file, all of it a hole."""
    file = path.open("xb")
    file.truncate(part.mark.size)
    return file


def _config(header: Header, folder: Path) -> MachineConfig:
    """Over the disks in `folder`. There is no kernel: a restore needs none, and who boots takes the
    template's.
    """
    return MachineConfig(
        vm_id="",
        cpus=header.own.manifest.cpus,
        memory_mb=header.own.manifest.memory_mb,
        root_disk=folder / HELD_ROOT,
        overlay=folder / EMPTY,
        disk_limit_bytes=header.disk_limit_bytes,
        kernel=folder / "kernel",
        initrd=folder / "initrd",
    )


def _files_of(header: Header, home: Path, held: Path | None) -> SnapshotFiles:
    if held is None:
        return snapshots.files_in(home)
    count = len(header.own.parts) - 2
    return snapshots.differing(home, snapshots.files_in(held), held / EMPTY, count)
