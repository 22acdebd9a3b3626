"""What this machine can do for sandboxes, what it lacks, and the one line that mends each lack.

Nothing is installed, downloaded or built. The one trace is the verdict on KVM in the cache, which the server
uses as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct

from pandastack.config import HostConfig
from pandastack.errors import BuildFailed, NoSpace
from pandastack.host import checks
from pandastack.host.agent import find_agent, find_images_dir
from pandastack.host.builder import SPACE_NEEDED
from pandastack.host.checks import Check, Outcome, Programs
from pandastack.host.image import find_image
from pandastack.host.manifest import template_names
from pandastack.host.paths import Cache
from pandastack.host.probe import probe_kvm
from pandastack.host.qemu_install import GOOD_MAJOR, QemuInstall, find_qemu, of_the_system
from pandastack.model.sandbox import Isolation

SETUP = "pandastack setup"

BUILD_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "unshare": "util-linux",
}
"""What images are built with, and the packages it is in."""

COMPILERS = ("musl-gcc", "gcc")


class Report(Struct, frozen=True):
    """All answers, and what would stand between a guest and this machine."""

    isolation: Isolation
    checks: list[Check]

    @property
    def works(self) -> bool:
        """Whether a sandbox can be had here."""
        return all(check.ok is not Outcome.FAIL for check in self.checks)


async def examine(config: HostConfig, listen: str, env: Mapping[str, str]) -> Report:
    """Ask this machine everything, in a few seconds. Errors: InvalidRequest when `listen` is no address."""
    cache = Cache(config.cache_dir)
    programs = Programs(env.get("PATH", os.defpath))
    qemu = await find_any_qemu(cache)
    kvm = await hardware(qemu, cache, env)
    missing = missing_templates(cache)
    return Report(
        isolation=Isolation.HARDWARE if kvm.ok is Outcome.OK else Isolation.EMULATED,
        checks=[
            kvm,
            monitor(qemu),
            await checks.firecracker(programs, config, kvm),
            *software(cache, programs, missing),
            *await resources(config, building=bool(missing)),
            checks.listen_address(listen),
            checks.privileges(),
            checks.cgroups(),
            checks.networks(),
        ],
    )


async def find_any_qemu(cache: Cache) -> QemuInstall | None:
    """The QEMU that the server would use, else the system's own, else None."""
    try:
        return find_qemu(cache) or await of_the_system()
    except (BuildFailed, NoSpace):
        return None


async def hardware(qemu: QemuInstall | None, cache: Cache, env: Mapping[str, str]) -> Check:
    """Whether hardware virtualization works, found out anew by running a guest."""
    why = "Without it the processor is emulated: 10 to 20 times slower, and no security boundary."
    if qemu is None:
        return Check("KVM", Outcome.WARN, "not tried: there is no QEMU yet", why, SETUP)
    verdict = await probe_kvm(qemu, cache, env, again=True)
    if verdict.usable:
        return Check("KVM", Outcome.OK, f"usable: {verdict.reason}", why)
    return Check("KVM", Outcome.WARN, f"not usable: {verdict.reason}", why, _mend_of(verdict.reason))


def _mend_of(reason: str) -> str:
    if "does not exist" in reason:
        return "modprobe kvm_intel (or kvm_amd), or choose a machine type with nested virtualization"
    if "may not be opened" in reason:
        return "usermod -aG kvm $USER, then log in again"
    return "use bare metal, or a machine type whose nested virtualization works"


def monitor(qemu: QemuInstall | None) -> Check:
    """Which QEMU runs the machines."""
    why = f"It runs every machine; emulated, QEMU {GOOD_MAJOR} runs a command several times faster than 7."
    if qemu is None:
        return Check("QEMU", Outcome.FAIL, "none", why, SETUP)
    found = f"{qemu.version} ({qemu.binary})"
    if qemu.major >= GOOD_MAJOR:
        return Check("QEMU", Outcome.OK, found, why)
    return Check("QEMU", Outcome.WARN, qemu.note or found, why, SETUP)


def missing_templates(cache: Cache) -> list[str]:
    """The templates that have no image on this machine yet."""
    images_dir = find_images_dir()
    return [name for name in template_names(images_dir) if find_image(name, cache, images_dir) is None]


def software(cache: Cache, programs: Programs, missing: list[str]) -> list[Check]:
    """Templates and agent, or else what they are made with."""
    why = "Sandboxes are made from them."
    if missing:
        found = f"not built yet: {', '.join(missing)}"
        templates = Check("templates", Outcome.WARN, found, why, f"{SETUP}, or let the first start do it")
    else:
        templates = Check("templates", Outcome.OK, ", ".join(template_names(find_images_dir())), why)
    building = "Images are built with them."
    build_tools = BUILD_TOOLS if os.geteuid() == 0 else BUILD_TOOLS | {"newuidmap": "uidmap"}
    compiling = "The guest agent is compiled with it, unless the installed package carries it."
    compiler = next((name for name in COMPILERS if programs.find(name)), COMPILERS[-1])
    return [
        templates,
        checks.tools("image tools", programs, build_tools, why=building, needed=bool(missing)),
        checks.tools(
            "compiler",
            programs,
            {compiler: "gcc", "make": "make"},
            why=compiling,
            needed=find_agent(cache) is None,
        ),
    ]


async def resources(config: HostConfig, *, building: bool) -> list[Check]:
    """Disk, memory and the rights to build."""
    found = []
    for place in checks.places(config.state_dir, config.cache_dir):
        needed = SPACE_NEEDED if building and "cache" in place.name else checks.GIB
        found += [
            checks.space(place, wanted=SPACE_NEEDED, needed=needed),
            checks.reflinks(place),
        ]
    found.append(checks.memory(wanted=2 * checks.GIB, needed=checks.GIB // 4))
    found.append(await checks.namespaces(needed=building))
    return found
