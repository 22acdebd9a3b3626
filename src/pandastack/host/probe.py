"""Whether hardware virtualization really works here, decided by running a guest with a deadline.

A device node that opens proves nothing: on some machines a virtual machine is created and then crawls in the
kernel's instruction emulator. So a guest of five instructions must say something through its serial port
within two seconds. The verdict holds until the host's next boot.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from pandastack.errors import MachineError
from pandastack.host import jail
from pandastack.host.paths import Cache
from pandastack.host.publish import workspace
from pandastack.host.qemu_command import Vmm
from pandastack.host.qemu_install import QemuInstall
from pandastack.host.record import read_record, write_record

PROBE_SECONDS = 2.0
_WORD = b"PANDA"


class Verdict(Struct, frozen=True):
    """Whether KVM is usable, the boot and the QEMU that it was found out with, and why not."""

    usable: bool
    reason: str
    boot_id: str
    build: str


async def probe_kvm(
    install: QemuInstall, cache: Cache, env: Mapping[str, str], *, again: bool = False
) -> Verdict:
    """The verdict for this boot of the host; asked of the machine once, then remembered in the cache."""
    path = cache.root / "kvm.json"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = read_record(path, Verdict)
    if known and not again and (known.boot_id, known.build) == (boot_id, install.build):
        return known
    usable, reason = await _try_kvm(install, cache, env)
    verdict = Verdict(usable, reason, boot_id, install.build)
    write_record(path, verdict)
    return verdict


async def _try_kvm(install: QemuInstall, cache: Cache, env: Mapping[str, str]) -> tuple[bool, str]:
    device = Path("/dev/kvm")
    if not device.exists():
        return (
            False,
            "/dev/kvm does not exist: load kvm_intel or kvm_amd, or enable virtualization in the firmware",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return False, "/dev/kvm may not be opened: add this user to the group kvm"
    with workspace(cache.root) as work:
        return await _run_guest(install, work, env)


async def _run_guest(install: QemuInstall, work: Path, env: Mapping[str, str]) -> tuple[bool, str]:
    """A boot sector that writes five letters to the serial port and stops."""
    disk, out, log = work / "probe.img", work / "out", work / "log"
    disk.write_bytes(boot_sector(_WORD))
    command = [
        *(str(install.binary), *(word for folder in install.firmware for word in ("-L", str(folder)))),
        *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc,accel=kvm", "-m", "16M"),
        *("-drive", f"file={disk},format=raw,if=ide,readonly=off", "-serial", f"file:{out}"),
    ]
    try:
        child = jail.spawn(command, log=log, cwd=work, env=_harmless(env) | install.env)
    except MachineError as error:
        return False, error.message
    try:
        for _ in range(int(PROBE_SECONDS / 0.05)):
            if out.exists() and out.read_bytes().startswith(_WORD):
                return True, "a probe guest ran"
            if not child.alive():
                return False, f"QEMU refused KVM: {log.read_text(errors='replace').strip()[-200:]}"
            await asyncio.sleep(0.05)
        return (
            False,
            f"a probe guest said nothing within {PROBE_SECONDS:g} s: the host's virtualization is crippled",
        )
    finally:
        await child.end(0)
        child.close()


def boot_sector(word: bytes) -> bytes:
    """Real-mode code that writes `word` to the first serial port (0x3F8), then halts for ever."""
    code = bytearray(b"\xba\xf8\x03")  # mov dx, 0x3f8
    for letter in word:
        code += bytes([0xB0, letter, 0xEE])  # mov al, letter; out dx, al
    code += b"\xfa\xf4\xeb\xfd"  # cli; again: hlt; jmp again
    return bytes(code).ljust(510, b"\0") + b"\x55\xaa"


async def choose_vmm(
    install: QemuInstall, cache: Cache, env: Mapping[str, str], *, emulate: bool = False, taps: bool
) -> Vmm:
    """How machines run here: on KVM when the probe guest ran, unless they are to be emulated; with `taps` for
    a way out of them.
    """
    usable = not emulate and (await probe_kvm(install, cache, env)).usable
    return Vmm(
        binary=install.binary,
        version=install.build,
        firmware=install.firmware,
        accel="kvm" if usable else "tcg",
        env=_harmless(env) | install.env,
        tsc_khz=0 if usable else tsc_khz(),
        read_only_memory=install.major >= 9,
        loads_in_place=install.version.startswith("10.0."),
        taps=taps,
    )


def _harmless(env: Mapping[str, str]) -> dict[str, str]:
    """What a VMM may know of the server's environment, which holds secrets."""
    return {name: env[name] for name in ("PATH", "TMPDIR") if name in env}


def host_cpu() -> str:
    """The processor's name; a snapshot taken on another one is refused."""
    return _cpuinfo("model name") or "unknown"


def tsc_khz() -> int:
    """The rate of the host's time stamp counter, which an emulated guest sees."""
    return int(float(_cpuinfo("cpu MHz") or 0) * 1000)


def _cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else ""
