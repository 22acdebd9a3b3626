"""What a host can start: the templates of its catalogue, each made ready once.

Ready means: its image is built, its snapshot is baked and was checked by this program. Making ready happens
at most once at a time; everybody who waits gets the same result, and a caller that gives up disturbs nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from pandastack.errors import PandastackError, TemplateNotFound
from pandastack.host.driver import MachineConfig, SnapshotFiles
from pandastack.host.paths import SIZE
from pandastack.host.uses import mark_used
from pandastack.model.image import Template, is_own, parted
from pandastack.telemetry import logger

log = logger("host")


class Prepared(Struct, frozen=True):
    """A template that can be started now."""

    template: Template
    any_machine: MachineConfig
    snapshot: SnapshotFiles | None
    """None: this driver has no snapshots to restore and boots."""
    env: dict[str, str] = {}
    """The default environment of every command."""
    workdir: str | None = None
    """Where commands start that name no directory; None is their user's home."""
    guest_ip: str = ""
    user: str | None = None
    """As whom commands run that name nobody; None is root."""

    def is_there(self) -> bool:
        """Whether its files still are: a cache may be emptied at any time."""
        files, machine = self.snapshot, self.any_machine
        if files is None:
            return True
        restored = (files.memory, files.state, files.overlay)
        booted = (machine.root_disk, machine.overlay, machine.kernel, machine.initrd)
        return all(path.exists() for path in restored + booted)

    def config(self, vm_id: str) -> MachineConfig:
        """The order for one machine of this template."""
        return msgspec.structs.replace(self.any_machine, vm_id=vm_id)


class Shelf(Protocol):
    """Where templates come from. `BareShelf` has names only; `BakedShelf` has images and snapshots, and so
    have `OwnImages`.
    """

    def names(self) -> Iterable[str]:
        """What exists, the ones to offer first in front."""
        ...

    def describe(self, name: str) -> Template:
        """The template as a user sees it, whether it is ready or not."""
        ...

    async def make_ready(self, name: str) -> Prepared:
        """Build and bake what is missing; long the first time."""
        ...


class Templates:
    """The templates of this host."""

    def __init__(self, *shelves: Shelf) -> None:
        self._shelves = shelves
        self._ready: dict[str, Prepared] = {}
        self._making: dict[str, asyncio.Task[Prepared]] = {}
        self._wanted: Counter[str] = Counter()
        self.made = asyncio.Event()
        """Set whenever one has been made ready."""

    async def prepare(self, name: str) -> Prepared:
        """The template, made ready if it is not; TemplateNotFound names those that exist."""
        if prepared := self.ready(name):
            _note_use(name, prepared)
            return prepared
        self._shelf_of(name)
        task = self._making.get(name)
        if task is None:
            task = asyncio.create_task(self._make(name), name=f"make {name} ready")
            self._making[name] = task
        return await asyncio.shield(task)

    def ready(self, name: str) -> Prepared | None:
        """The template, if it is ready and its files are there."""
        prepared = self._ready.get(name)
        return prepared if prepared is not None and prepared.is_there() else None

    def all(self) -> list[Template]:
        """The whole catalogue, less what cannot be read: the log is told of that."""
        found = []
        for shelf in self._shelves:
            for name in shelf.names():
                try:
                    found.append(self._describe(name, shelf))
                except PandastackError as error:
                    log.warning("template.unreadable", template=name, reason=error.message)
        return found

    @contextmanager
    def wanted(self, name: str) -> Iterator[None]:
        """Within the block what is ready of it is not put back: a machine is being started from it."""
        self._wanted[name] += 1
        try:
            yield
        finally:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name]

    def is_wanted(self, name: str) -> bool:
        """Whether machines are being started from it, or it is being made ready."""
        return name in self._wanted or name in self._making

    def has_ready(self, name: str, folder: Path) -> bool:
        """Whether what is ready of it is the snapshot in `folder`."""
        prepared = self._ready.get(name)
        files = prepared.snapshot if prepared else None
        return files is not None and files.directory == folder

    def put_back(self, name: str, folder: Path) -> bool:
        """Have it be ready no more, if the snapshot in `folder` is what is; the next who wants it has it made
        ready again.
        """
        is_that = self.has_ready(name, folder)
        if is_that:
            del self._ready[name]
        return is_that

    async def forget(self, name: str) -> list[Prepared]:
        """It is to be there no more, in no size: it is not made ready any further. What was ready of it."""
        for task in [task for making, task in self._making.items() if parted(making)[0] == name]:
            task.cancel()
            await asyncio.wait([task])
        return [self._ready.pop(ready) for ready in [*self._ready] if parted(ready)[0] == name]

    async def close(self) -> None:
        """Cancel what is being made and wait for its end."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _make(self, name: str) -> Prepared:
        """Owned by this object; `close` ends it."""
        try:
            prepared = await self._shelf_of(name).make_ready(name)
            self._ready[name] = prepared
            _note_use(name, prepared)
            self.made.set()
            return prepared
        finally:
            del self._making[name]

    def _describe(self, name: str, shelf: Shelf) -> Template:
        prepared = self._ready.get(name)
        return prepared.template if prepared else shelf.describe(name)

    def _shelf_of(self, name: str) -> Shelf:
        plain, _ = parted(name)
        for shelf in self._shelves:
            if plain in shelf.names():
                return shelf
        known = ", ".join(each for shelf in self._shelves for each in shelf.names() if not is_own(each))
        raise TemplateNotFound(f'unknown template "{name}": this server has {known}')


def _note_use(name: str, prepared: Prepared) -> None:
    """Of a size that was asked for: of these not all are kept."""
    if parted(name)[1] is not None and prepared.snapshot is not None:
        mark_used(prepared.snapshot.directory / SIZE)


class BareShelf:
    """Templates by name for a driver without disks: every one is the same local process."""

    def __init__(
        self,
        names: Iterable[str],
        home: Path,
        *,
        memory_mb: int = 512,
        env: dict[str, str] | None = None,
        workdir: str | None = None,
    ) -> None:
        self._names = tuple(names)
        self._home = home
        self._memory_mb = memory_mb
        self._env = env or {}
        self._workdir = workdir

    def names(self) -> Iterable[str]:
        return self._names

    def describe(self, name: str) -> Template:
        return Template(name=name, cpu=1, memory_mb=self._memory_mb, disk_mb=0, digest="none", baked=True)

    async def make_ready(self, name: str) -> Prepared:
        nothing = self._home / "nothing"
        config = MachineConfig(
            vm_id="",
            cpus=1,
            memory_mb=self._memory_mb,
            root_disk=nothing,
            overlay=nothing,
            disk_limit_bytes=1 << 34,
            kernel=nothing,
            initrd=nothing,
        )
        plain, size = parted(name)
        template = self.describe(plain)
        if size is not None:
            config = msgspec.structs.replace(config, cpus=size.cpu, memory_mb=size.memory_mb)
            template = msgspec.structs.replace(template, cpu=size.cpu, memory_mb=size.memory_mb)
        return Prepared(template, config, None, env=self._env, workdir=self._workdir, guest_ip="127.0.0.1")
