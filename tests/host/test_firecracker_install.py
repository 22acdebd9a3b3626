"""Which Firecracker is used, which is refused, and what the doctor says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.config import DriverName, HostConfig
from pandastack.host import checks
from pandastack.host.checks import Check, Outcome, Programs
from pandastack.host.firecracker_install import (
    HOLES,
    FirecrackerInstall,
    Refusal,
    find_firecracker,
    why_not,
    why_not_used,
)

pytestmark = pytest.mark.anyio

KVM = {
    works: Check("KVM", Outcome.OK if works else Outcome.WARN, "tried", "Because.") for works in (True, False)
}


def install(folder: Path, firecracker: str, jailer: str) -> Path:
    """Two programs that do nothing but say a version."""
    for name, version in (("firecracker", firecracker), ("jailer", jailer)):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{version}\n")
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("version", "holes"),
    [
        ((1, 12, 1), "CVE-2026-1386"),
        ((1, 13, 0), "CVE-2026-1386 CVE-2026-5747"),
        ((1, 13, 1), "CVE-2026-1386 CVE-2026-5747"),
        ((1, 13, 2), "CVE-2026-5747"),
        ((1, 14, 0), "CVE-2026-1386 CVE-2026-5747"),
        ((1, 14, 3), "CVE-2026-5747"),
        ((1, 14, 4), ""),
        ((1, 15, 0), "CVE-2026-5747"),
        ((1, 15, 1), ""),
        ((2, 0, 0), ""),
    ],
)
def test_the_known_holes(version: tuple[int, int, int], holes: str) -> None:
    assert " ".join(hole.name for hole in HOLES if hole.has(version)) == holes
    refused = why_not(version)
    assert (refused is not None) is ("1386" in holes), "PCI is never switched on"
    assert why_not(version, allow_version=".".join(map(str, version))) is None


def test_an_old_one_is_refused_even_by_name() -> None:
    assert "too old" in (why_not((1, 11, 0), allow_version="1.11.0") or "")


@pytest.mark.parametrize(
    ("firecracker", "jailer", "found"),
    [
        ("echo Firecracker v1.15.1", "echo Jailer v1.15.1", "1.15.1"),
        ("echo Firecracker v1.12.1", "echo Jailer v1.12.1", "CVE-2026-1386"),
        ("echo Firecracker v1.15.1", "echo Jailer v1.14.4", "jailer is 1.14.4"),
        ("echo unheard of", "echo Jailer v1.15.1", "does not say"),
        ("exit 3", "echo Jailer v1.15.1", "does not run"),
    ],
)
async def test_what_is_found(tmp_path: Path, firecracker: str, jailer: str, found: str) -> None:
    folder = install(tmp_path, firecracker, jailer)
    for where in (
        await find_firecracker(Programs(str(folder)).find),
        await find_firecracker(Programs("").find, folder=folder),
    ):
        good = isinstance(where, FirecrackerInstall)
        assert good is (found == "1.15.1")
        assert found in (where.version if isinstance(where, FirecrackerInstall) else where.reason)


async def test_one_version_may_be_allowed_by_name(tmp_path: Path) -> None:
    folder = install(tmp_path, "echo Firecracker v1.12.1", "echo Jailer v1.12.1")
    found = await find_firecracker(Programs("").find, folder=folder, allow_version="1.12.1")
    assert isinstance(found, FirecrackerInstall)
    assert isinstance(
        await find_firecracker(Programs("").find, folder=folder, allow_version="1.12.0"), Refusal
    )


async def test_half_of_it_is_not_enough(tmp_path: Path) -> None:
    (install(tmp_path, "exit 0", "exit 0") / "jailer").unlink()
    found = await find_firecracker(Programs("").find, folder=tmp_path)
    assert isinstance(found, Refusal)
    assert found.reason == "not installed: jailer"


@pytest.mark.parametrize(
    ("driver", "kvm", "root", "reason"),
    [
        (DriverName.AUTO, True, True, None),
        (DriverName.FIRECRACKER, True, True, None),
        (DriverName.QEMU, True, True, "set to qemu"),
        (DriverName.AUTO, False, True, "hardware virtualization"),
        (DriverName.FIRECRACKER, False, True, "hardware virtualization"),
        (DriverName.AUTO, True, False, "root"),
    ],
)
def test_when_it_is_used(driver: DriverName, kvm: bool, root: bool, reason: str | None) -> None:
    said = why_not_used(driver, kvm=kvm, root=root)
    assert said is None if reason is None else reason in (said or "")


async def test_the_doctor_says_which_and_why_not(tmp_path: Path) -> None:
    folder = install(tmp_path, "echo Firecracker v1.15.1", "echo Jailer v1.15.1")
    config = HostConfig(firecracker_dir=folder)
    programs = Programs("")
    check = await checks.firecracker(programs, config, KVM[False])
    assert check.ok is Outcome.OK
    assert "1.15.1" in check.found and "not used: it needs hardware virtualization" in check.found
    install(tmp_path, "echo Firecracker v1.12.1", "echo Jailer v1.12.1")
    refused = await checks.firecracker(programs, config, KVM[True])
    assert refused.ok is Outcome.WARN and "CVE-2026-1386" in refused.found and refused.mend
    nothing = await checks.firecracker(programs, HostConfig(), KVM[False])
    assert nothing.ok is Outcome.OK and not nothing.mend
