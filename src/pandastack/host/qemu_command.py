"""QEMU's command line, as a value: which devices a machine has, and what differs between its boot and its
restores.

The device list is part of every snapshot: a restore must name the same devices in the same order. So it is
built in one place and its text goes into the snapshot's manifest.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pandastack.host import layers
from pandastack.host.driver import MachineConfig
from pandastack.host.network.addresses import GUEST_MAC
from pandastack.host.translation import translated_mb
from pandastack.model.volume import MOST_MOUNTS

OVERLAY = layers.FIRST
MEMORY = "memory"
CONSOLE = "console.log"
"""The files of a machine's home, where QEMU works, so that its command line can be the same for all."""

BASE_DISK = "disk1"
"""The highest disk layer of a base, of which all machines of a template are written copies."""
DISK_PATH = "/machine/peripheral-anon/device[2]"
"""The disk among QEMU's objects: the third device of the command line."""

DRIVES = MOST_MOUNTS
"""Devices of machines that wait for a drive: where nothing can be plugged in, a socket has to be there."""

EMPTY_BYTES = 512

PORT_NAME = "pandastack"
"""The guest finds the agent's port by this name."""

MACHINE = "microvm,pit=off,pic=off,rtc=off,isa-serial=on,memory-backend=ram,dump-guest-core=off"

_SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Vmm(Struct, frozen=True):
    """A QEMU that was found: how to run it and what it runs guests with."""

    binary: Path
    version: str
    firmware: tuple[Path, ...]
    accel: str
    """`kvm` or `tcg`."""
    env: dict[str, str] = {}
    seccomp: bool = True
    read_only_memory: bool = True
    """It can map a file privately that it has opened for reading only (QEMU 9 and later)."""
    loads_in_place: bool = False
    """What its fork servers call to put a snapshot into a fork has the shape that they know (QEMU 10.0)."""
    taps: bool = False
    """Its machines have taps, which lead where their host says; without it their network leads nowhere."""
    tsc_khz: int = 0
    """The host's clock rate, told to an emulated guest that could not calibrate its timers reliably."""

    @property
    def cpu(self) -> str:
        """Emulated: everything that QEMU knows, but 5-level page tables (a longer walk for each miss) and the
        string instructions that call themselves fast, which emulation does byte by byte: without them a guest
        copies two to three times as fast.
        """
        return "host" if self.accel == "kvm" else "max,la57=off,erms=off,fsrm=off"


class Files(Struct, frozen=True, kw_only=True):
    """The files and descriptors of one start."""

    name: str
    """What the process is called in its arguments."""
    memory: Path
    base_layers: tuple[Path, ...]
    """qcow2 layers over the root disk, lowest first, that are never written."""
    own_layers: tuple[str, ...] = (layers.FIRST,)
    """Those in the home over them, of which the last one is written."""
    qmp_fd: int
    agent_fd: int
    tap_fd: int
    """Where the network device sends to, of a machine that has a tap."""
    state: Path | None = None
    """The device state of a restore; None boots the kernel."""
    deferred: bool = False
    """The state is loaded only when the monitor is told to, once the memory is as it belongs."""


def boot_command(vmm: Vmm, config: MachineConfig, files: Files) -> list[str]:
    """Start from the kernel, with the memory in a file of its own that will be the snapshot's."""
    return [*_common(vmm, config, files, shared=True), *_kernel(vmm, config)]


def boot_over_command(vmm: Vmm, config: MachineConfig, files: Files) -> list[str]:
    """Start from the kernel, over a memory that is mapped privately."""
    return [*_common(vmm, config, files, shared=False), *_kernel(vmm, config)]


def _kernel(vmm: Vmm, config: MachineConfig) -> list[str]:
    append = " ".join(_kernel_arguments(vmm))
    return ["-kernel", str(config.kernel), "-initrd", str(config.initrd), "-append", append]


def restore_command(vmm: Vmm, config: MachineConfig, files: Files) -> list[str]:
    """Start from a snapshot: memory mapped privately, device state loaded, running as soon as it is.

    `-kernel` is left out: its bytes are in the memory already, and reading them again costs 8 ms. The state
    file was written without a configuration section, hence `send-configuration`.
    """
    where = "defer" if files.deferred else f"file:{files.state}"
    incoming = ["-global", "migration.send-configuration=off", "-incoming", where]
    return [*_common(vmm, config, files, shared=False), *incoming]


def devices(config: MachineConfig, vmm: Vmm) -> str:
    """The part of the command line that a snapshot depends on, for its manifest."""
    size = [str(config.cpus), str(config.memory_mb)]
    return " ".join(
        [MACHINE, vmm.cpu, *size, *_devices(layers.node(layers.FIRST), _netdev(vmm)), *_kernel_arguments(vmm)]
    )


def _netdev(vmm: Vmm, tap: int | None = None) -> str:
    """What is behind the network device. Without a tap nothing is; what is offered to the guest differs, so a
    snapshot goes on only over its own kind.
    """
    if not vmm.taps:
        return "user,id=net,restrict=on,ipv6=off"
    return "tap,id=net" if tap is None else f"tap,id=net,fd={tap}"


def _devices(top: str, netdev: str) -> list[str]:
    """`top` is the disk layer that is written: what a machine's disk is made of is no part of the device."""
    return [
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-device", f"virtserialport,chardev=agent,name={PORT_NAME}"),
        *("-device", f"virtio-blk-device,drive={top}"),
        *("-netdev", netdev),
        *("-device", f"virtio-net-device,netdev=net,guest_announce=off,mac={GUEST_MAC}"),
        *(
            word
            for number in range(DRIVES)
            for word in ("-device", f"virtio-blk-device,id={drive(number)},drive={empty_drive(number)}")
        ),
    ]


def drive(number: int) -> str:
    """What the device of a drive is called, and what is in it."""
    return f"drive{number}"


def empty_drive(number: int) -> str:
    """What is in a device whose drive has not come."""
    return f"empty{number}"


def _common(vmm: Vmm, config: MachineConfig, files: Files, *, shared: bool) -> list[str]:
    firmware = [word for folder in vmm.firmware for word in ("-L", str(folder))]
    confine = ["-sandbox", _SECCOMP] if vmm.seccomp else []
    return [
        *(str(vmm.binary), *firmware, "-name", files.name),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *confine),
        *("-machine", MACHINE, "-accel", _accel(vmm, config.memory_mb), "-cpu", vmm.cpu),
        *("-smp", str(config.cpus), "-m", f"{config.memory_mb}M"),
        *("-object", _memory(vmm, config, files.memory, shared=shared)),
        *(
            "-chardev",
            f"socket,id=qmp,fd={files.qmp_fd},server=on,wait=off",
            "-mon",
            "chardev=qmp,mode=control",
        ),
        *("-chardev", f"socket,id=agent,fd={files.agent_fd},server=on,wait=on"),
        *(
            "-chardev",
            f"file,id=console,path={CONSOLE},append=on",
            "-serial",
            "chardev:console",
        ),
        *_drives(config.root_disk, files),
        *(
            word
            for number in range(DRIVES)
            for word in (
                "-blockdev",
                f"null-co,node-name={empty_drive(number)},size={EMPTY_BYTES},read-zeroes=on",
            )
        ),
        *_devices(layers.node(files.own_layers[-1]), _netdev(vmm, files.tap_fd)),
    ]


def _accel(vmm: Vmm, memory_mb: int) -> str:
    return "kvm" if vmm.accel == "kvm" else f"tcg,tb-size={translated_mb(memory_mb)}"


def _memory(vmm: Vmm, config: MachineConfig, path: Path, *, shared: bool) -> str:
    private = "share=off,readonly=on,rom=off" if vmm.read_only_memory else "share=off"
    mode = "share=on" if shared else private
    size = f"size={config.memory_mb}M"
    return f"memory-backend-file,id=ram,{size},mem-path={_escape(path)},{mode},merge=off,dump=off"


def _drives(root: Path, files: Files) -> list[str]:
    """A raw root disk and the qcow2 layers over it, all but the last read only.

    `no-flush`: a sandbox's disk dies with its memory when the host loses power, and a snapshot flushes by
    itself; so a guest's fsync need not wait for the host's disk. A full host disk pauses the guest
    (`werror=enospc`, the default).
    """
    words = ["-blockdev", f"driver=raw,node-name=disk0,read-only=on,{_file(root)}"]
    below = "disk0"
    base = [(f"disk{index}", layer) for index, layer in enumerate(files.base_layers, start=1)]
    own = [(layers.node(name), Path(name)) for name in files.own_layers]
    for name, layer in (*base, *own):
        mode = "" if name == own[-1][0] else ",read-only=on"
        below_it = f"backing={below}"
        words += [
            "-blockdev",
            f"driver=qcow2,node-name={name}{mode},{_file(layer)},cache.no-flush=on,{below_it}",
        ]
        below = name
    return words


def _file(path: Path) -> str:
    return f"file.driver=file,file.locking=off,file.filename={_escape(path)}"


def _escape(path: Path) -> str:
    """QEMU's option syntax doubles commas."""
    return str(path).replace(",", ",,")


def _kernel_arguments(vmm: Vmm) -> list[str]:
    always = [
        "console=ttyS0",
        "quiet",
        "panic=-1",
        "reboot=t",
        "net.ifnames=0",
        "random.trust_cpu=on",
        "tsc=reliable",
        "rcupdate.rcu_expedited=1",  # a disk freezes in 5 ms instead of 40: nobody waits for idle processors
    ]
    return [*always, f"tsc_early_khz={vmm.tsc_khz}", "no_timer_check"] if vmm.tsc_khz else always
