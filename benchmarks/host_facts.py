"""The machine that a figure was measured on: without it no figure means anything."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from pandastack.host.qemu_command import Vmm

ROOT = Path(__file__).parents[1]


class HostFacts(Struct, frozen=True, kw_only=True):
    """`load_before` is the load average of the last minute, before anything was started."""

    cpu: str
    cores: int
    memory_mb: int
    kernel: str
    system: str
    virtualized: bool
    vmm: str
    accel: str
    isolation: str
    load_before: float
    python: str
    commit: str
    changed: bool
    """The checkout had changes that are in no commit."""
    date: str


def host_facts(vmm: Vmm) -> HostFacts:
    """This machine now, and what it runs virtual machines with."""
    return HostFacts(
        cpu=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=int((_field(Path("/proc/meminfo"), "MemTotal") or "0").split()[0]) // 1024,
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        virtualized="hypervisor" in (_field(Path("/proc/cpuinfo"), "flags") or "").split(),
        vmm=f"QEMU {vmm.version}",
        accel=vmm.accel,
        isolation="hardware" if vmm.accel == "kvm" else "emulated",
        load_before=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        commit=_git("rev-parse", "--short=12", "HEAD"),
        changed=bool(_git("status", "--porcelain", "--untracked-files=no")),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _field(path: Path, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", path.read_text(), re.MULTILINE)
    return found[1].strip() if found else None


def _git(*words: str) -> str:
    """What git says of the checkout; nothing when this is none."""
    try:
        said = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()
