"""What a QEMU needs of the host's files in its jail; all of it can be read there and nothing written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pandastack.host.cell import Bind
from pandastack.host.driver import MachineConfig
from pandastack.host.qemu_command import Files, Vmm

KVM = Path("/dev/kvm")


def binds(vmm: Vmm, config: MachineConfig, files: Files, library: Path | None = None) -> tuple[Bind, ...]:
    """Its program, with its libraries and firmware, and what the machine is made from; with the `library` of
    a fork server that too.
    """
    return tuple(_program(vmm, library)) + tuple(Bind(path) for path in _machine(config, files))


def _program(vmm: Vmm, library: Path | None) -> Iterator[Bind]:
    yield Bind(vmm.binary, "x")
    libraries = vmm.env.get("LD_LIBRARY_PATH", "")
    for folder in filter(None, libraries.split(os.pathsep)):
        if Path(folder).is_dir():
            yield Bind(Path(folder), "x")
    for path in (*vmm.firmware, Path("/usr/share/seabios")):
        if path.is_dir():
            yield Bind(path)
    if library is not None:
        yield Bind(library, "x")
    if vmm.accel == "kvm":
        yield Bind(KVM, "d")


def _machine(config: MachineConfig, files: Files) -> Iterator[Path]:
    yield config.root_disk
    yield from files.base_layers
    if files.memory.is_absolute():
        yield files.memory
    if files.state is None:
        yield from (config.kernel, config.initrd)
