"""The doctor: every answer is right, in time, and comes with what mends a lack."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pandastack.config import HostConfig
from pandastack.errors import InvalidRequest
from pandastack.host import checks, doctor
from pandastack.host.checks import Outcome, Place, Programs
from pandastack.host.paths import Cache
from pandastack.host.qemu_install import QemuInstall

pytestmark = pytest.mark.anyio

ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath)}
KVM_IS_OPEN = os.access("/dev/kvm", os.R_OK | os.W_OK)


def program(folder: Path, name: str, script: str) -> Path:
    """A program for this test alone."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def stand_in(binary: Path) -> QemuInstall:
    return QemuInstall(binary=binary, firmware=(), version="10.0.2", build="of this test")


def below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


async def test_the_whole_report_comes_soon_and_every_lack_can_be_mended(tmp_path: Path) -> None:
    config = HostConfig(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")
    began = time.monotonic()
    report = await doctor.examine(config, "127.0.0.1:0", ENVIRONMENT)
    assert time.monotonic() - began < 10
    for check in report.checks:
        assert check.name and check.found and check.why_it_matters.endswith(".")
        assert "\n" not in check.found + check.mend
        assert check.mend or check.ok is Outcome.OK, check
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names))
    assert report.works is not any(check.ok is Outcome.FAIL for check in report.checks)


async def test_it_leaves_nothing_but_the_verdict(tmp_path: Path) -> None:
    config = HostConfig(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")
    await doctor.examine(config, "127.0.0.1:0", ENVIRONMENT)
    assert set(below(tmp_path)) <= {"cache", "cache/kvm.json"}


async def test_a_guest_that_speaks_means_kvm(tmp_path: Path) -> None:
    speaks = program(
        tmp_path, "speaks", 'for word; do case $word in file:*) printf PANDA >"${word#file:}";; esac; done'
    )
    check = await doctor.hardware(stand_in(speaks), Cache(tmp_path / "cache"), ENVIRONMENT)
    assert check.ok is (Outcome.OK if KVM_IS_OPEN else Outcome.WARN)


async def test_a_guest_that_hangs_means_no_kvm_within_its_deadline(tmp_path: Path) -> None:
    hangs = program(tmp_path, "hangs", "exec sleep 60")
    began = time.monotonic()
    check = await doctor.hardware(stand_in(hangs), Cache(tmp_path / "cache"), ENVIRONMENT)
    assert time.monotonic() - began < 4
    assert check.ok is Outcome.WARN
    assert check.found.startswith("not usable: ")
    assert check.mend


async def test_a_monitor_that_refuses_kvm_is_quoted(tmp_path: Path) -> None:
    refuses = program(tmp_path, "refuses", "echo 'failed to initialize kvm' >&2; exit 1")
    check = await doctor.hardware(stand_in(refuses), Cache(tmp_path / "cache"), ENVIRONMENT)
    assert check.ok is Outcome.WARN
    assert "failed to initialize kvm" in check.found or not KVM_IS_OPEN


async def test_without_a_monitor_nothing_is_claimed(tmp_path: Path) -> None:
    check = await doctor.hardware(None, Cache(tmp_path), ENVIRONMENT)
    assert (check.ok, check.mend) == (Outcome.WARN, doctor.SETUP)
    assert doctor.monitor(None).ok is Outcome.FAIL


def test_an_old_monitor_works_and_is_said_to_be_slow() -> None:
    old = QemuInstall(binary=Path("/usr/bin/qemu"), firmware=(), version="7.2.22", build="7.2.22")
    assert doctor.monitor(old).ok is Outcome.WARN


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert checks.listen_address(address).ok is Outcome.WARN
    assert checks.listen_address(address).ok is Outcome.OK


def test_what_is_no_address() -> None:
    with pytest.raises(InvalidRequest):
        checks.listen_address("nowhere")


def test_space_is_judged_by_what_is_needed(tmp_path: Path) -> None:
    place = Place("state", tmp_path / "not" / "yet")
    assert checks.space(place, wanted=1, needed=1).ok is Outcome.OK
    assert checks.space(place, wanted=1 << 60, needed=1).ok is Outcome.WARN
    assert checks.space(place, wanted=1 << 60, needed=1 << 60).ok is Outcome.FAIL


def test_a_directory_that_may_not_be_written() -> None:
    check = checks.space(Place("state", Path("/proc/pandastack")), wanted=1, needed=1)
    assert check.ok is Outcome.FAIL
    assert "may not be written" in check.found


def test_two_directories_on_one_file_system_are_one_place(tmp_path: Path) -> None:
    assert len(checks.places(tmp_path / "a", tmp_path / "b")) == 1
    assert len(checks.places(tmp_path / "a", Path("/proc"))) == 2


def test_the_trial_copy_vanishes(tmp_path: Path) -> None:
    assert checks.reflinks(Place("state", tmp_path)).ok is not Outcome.FAIL
    assert not list(tmp_path.iterdir())
    assert not checks.clones(Path("/proc"))


def test_file_systems_are_named() -> None:
    assert checks.file_system(Path("/proc/self")) == "proc"


def test_programs_that_are_missing_name_their_packages() -> None:
    wanted = {"sh": "dash", "no-such-program": "some-package", "nor-this-one": "some-package"}
    check = checks.tools("tools", Programs(ENVIRONMENT["PATH"]), wanted, why="They are used.", needed=True)
    assert check.ok is Outcome.FAIL
    assert check.mend == "apt-get install some-package"


def test_memory_is_judged_by_what_is_needed() -> None:
    assert checks.memory(wanted=1, needed=1).ok is Outcome.OK
    assert checks.memory(wanted=1 << 60, needed=1).ok is Outcome.WARN
    assert checks.memory(wanted=1 << 60, needed=1 << 60).ok is Outcome.FAIL


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("pandastack")), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_command_speaks_to_programs(tmp_path: Path) -> None:
    done = run("--json", "doctor", "--state", str(tmp_path), "--listen", "127.0.0.1:0")
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["ok"] == "fail"]
    assert done.returncode == (1 if failed else 0)
    assert report["isolation"] in {"hardware", "emulated"}


def test_the_command_speaks_to_people_and_fails_when_something_needed_is_missing() -> None:
    done = run("doctor", "--state", "/proc/pandastack", "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    words = " ".join(done.stdout.split())
    assert "may not be written" in words
    assert "→ choose another --state" in words


async def test_namespaces_are_tried_as_a_build_would() -> None:
    check = await checks.namespaces(needed=False)
    assert check.ok is Outcome.OK or (check.ok is Outcome.WARN and check.mend)
