"""What a Firecracker is told, as values: its command line, the requests of a boot, a restore and a snapshot.

All paths are constants of a machine's root, so that a snapshot restores in any other.
"""

from __future__ import annotations

from msgspec import Struct

from pandastack.host.driver import MachineConfig
from pandastack.host.firecracker_api import Order
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_jail import BASE, LOG, Root

API, VSOCK, METRICS = "api.sock", "vsock", "metrics"
KERNEL, INITRD, DISK = "kernel", "initrd", "disk"
MEMORY, STATE = "memory", "state"
"""Names in a machine's root."""
NEW_MEMORY, NEW_STATE = "new.memory", "new.state"
"""What a snapshot is written to, before it is taken out of the root."""

AGENT_PORT = 1024
"""Where the guest's agent listens on vsock."""
GUEST_CID = 3
INTERFACE = "eth0"
OPEN_FILES = 1024

KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "reboot=k",
    "net.ifnames=0",
    "random.trust_cpu=on",
    "tsc=reliable",
    "rcupdate.rcu_expedited=1",  # a disk freezes in 5 ms instead of 40: nobody waits for idle processors
    *("i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd", "pci=off"),  # nothing to look for
)


class Wire(Struct, frozen=True):
    """A machine's way to the network: a tap, and a descriptor of the network namespace that it is in."""

    network: int
    tap: str
    mac: str = "52:54:00:70:64:73"


class Shape(Struct, frozen=True):
    """What all machines of a driver have beside their sizes."""

    wired: bool = False
    """They have a network device; the tap behind it is each machine's own."""
    balloon: bool = False
    log_level: str = "Warning"

    def devices(self, config: MachineConfig) -> str:
        """All that a snapshot depends on, for its manifest."""
        also = [name for name, has in (("net", self.wired), ("balloon", self.balloon)) if has]
        words = [f"cpus={config.cpus}", f"memory={config.memory_mb}", "disk", "vsock", *also]
        return " ".join([*words, *KERNEL_ARGUMENTS])


def jailer_command(install: FirecrackerInstall, root: Root, config: MachineConfig, level: str) -> list[str]:
    """The jailer, and behind `--` what it tells Firecracker. System call filters are on by default, and a
    device on PCI is nothing that we ask for.
    """
    largest = max(config.disk_limit_bytes, (config.memory_mb << 20) + (1 << 20))
    return [
        str(install.jailer),
        *("--id", root.name, "--exec-file", str(install.firecracker)),
        *("--uid", str(root.uid), "--gid", str(root.uid)),
        *("--chroot-base-dir", str(root.home / BASE)),
        *("--resource-limit", f"fsize={largest}", "--resource-limit", f"no-file={OPEN_FILES}"),
        "--",
        *("--api-sock", f"/{API}", "--log-path", f"/{LOG}", "--level", level),
        *("--metrics-path", f"/{METRICS}"),
    ]


def boot_orders(config: MachineConfig, shape: Shape, wire: Wire | None) -> list[Order]:
    """From a fresh process to a kernel that runs. No entropy device: the gate brings entropy."""
    source = {
        "kernel_image_path": f"/{KERNEL}",
        "initrd_path": f"/{INITRD}",
        "boot_args": " ".join(KERNEL_ARGUMENTS),
    }
    size = {"vcpu_count": config.cpus, "mem_size_mib": config.memory_mb, "track_dirty_pages": True}
    disk = {"drive_id": DISK, "path_on_host": f"/{DISK}", "is_root_device": False, "is_read_only": False}
    orders = [
        Order("PUT", "/machine-config", size),
        Order("PUT", "/boot-source", source),
        Order("PUT", f"/drives/{DISK}", disk),
        Order("PUT", "/vsock", {"guest_cid": GUEST_CID, "uds_path": f"/{VSOCK}"}),
    ]
    if wire is not None:
        device = {"iface_id": INTERFACE, "host_dev_name": wire.tap, "guest_mac": wire.mac}
        orders.append(Order("PUT", f"/network-interfaces/{INTERFACE}", device))
    if shape.balloon:
        balloon = {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 0}
        orders.append(Order("PUT", "/balloon", balloon))
    return [*orders, Order("PUT", "/actions", {"action_type": "InstanceStart"})]


def load_order(wire: Wire | None, *, resume: bool = True) -> Order:
    """From a fresh process to a machine that goes on where a snapshot was taken. The memory is mapped
    privately: nothing is read up front. Newer versions call `enable_diff_snapshots` by another name and know
    this one as well.
    """
    overrides = [{"iface_id": INTERFACE, "host_dev_name": wire.tap}] if wire else []
    body = {
        "snapshot_path": f"/{STATE}",
        "mem_backend": {"backend_type": "File", "backend_path": f"/{MEMORY}"},
        "enable_diff_snapshots": True,
        "resume_vm": resume,
    }
    return Order("PUT", "/snapshot/load", body | ({"network_overrides": overrides} if overrides else {}))


def create_order(*, differing: bool) -> Order:
    """Write the state and the memory: all, or what has changed since it was written last or loaded."""
    body = {
        "snapshot_type": "Diff" if differing else "Full",
        "snapshot_path": f"/{NEW_STATE}",
        "mem_file_path": f"/{NEW_MEMORY}",
    }
    return Order("PUT", "/snapshot/create", body)


PAUSE = Order("PATCH", "/vm", {"state": "Paused"})
RESUME = Order("PATCH", "/vm", {"state": "Resumed"})
FLUSH_METRICS = Order("PUT", "/actions", {"action_type": "FlushMetrics"})


def balloon_order(mib: int) -> Order:
    """Take so much memory back from the guest."""
    return Order("PATCH", "/balloon", {"amount_mib": mib})
