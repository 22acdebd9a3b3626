"""Which control groups a host has, by what is mounted."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from pandastack.host.firecracker_cgroups import Cgroups, find_cgroups
from pandastack.testing.machines import machine_config

ROOT = "22 1 0:20 / / rw - ext4 /dev/vda rw\n"


def line(kind: str, where: str, options: str) -> str:
    return f"31 23 0:28 / {where} rw,relatime shared:9 - {kind} {kind} {options}\n"


def test_the_second_generation(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = find_cgroups(ROOT + line("cgroup2", str(tmp_path), "rw,nsdelegate"))
    assert found == Cgroups(2, dict.fromkeys(("cpu", "memory", "pids"), tmp_path))
    assert found.groups("one") == [tmp_path / "pandastack" / "one"]


def test_both_mounted_means_the_first(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("\n")
    mounts = [
        line("cgroup", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
        line("cgroup", "/sys/fs/cgroup/memory", "rw,memory"),
        line("cgroup2", str(tmp_path), "rw"),
    ]
    found = find_cgroups(ROOT + "".join(mounts))
    assert found is not None
    assert (found.version, set(found.roots)) == (1, {"cpu", "memory"})
    words = found.arguments(structs.replace(machine_config(), cpus=2, memory_mb=64))
    assert words[:4] == ["--cgroup-version", "1", "--parent-cgroup", "pandastack"]
    assert f"memory.limit_in_bytes={(64 + 128) << 20}" in words
    assert "cpu.cfs_quota_us=225000" in words
    assert not any("pids" in word for word in words), "there is no such controller"


def test_none_at_all() -> None:
    assert find_cgroups(ROOT) is None
