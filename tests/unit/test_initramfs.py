"""The first file system of a guest: the archive's format, its content and the order of the modules."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import pytest

from pandastack.errors import BuildFailed
from pandastack.host.initramfs import Entry, archive, contents, ensure_initramfs
from pandastack.host.kernel import Kernel, dependencies, load_order
from pandastack.host.paths import Cache


def read(data: bytes) -> list[Entry]:
    """Read an archive back, strictly: magic, alignment, trailer, nothing behind it."""
    entries: list[Entry] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        assert fields[2:4] == [0, 0], "owned by root"
        assert fields[5] == 0, "no time of its own"
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) // 4 * 4
        at = (start + size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(data)
            return entries
        device = (fields[9], fields[10])
        entries.append(Entry(name[:-1].decode(), mode, data[start : start + size], device))


def module(depends: str, *, name: bytes = b".modinfo") -> bytes:
    """The smallest ELF file that has a section with such a content."""
    info = f"license=GPL\0depends={depends}\0name=x\0".encode()
    names = b"\0" + name + b"\0.shstrtab\0"
    body = info + names
    table = 64 + len(body)
    header = struct.pack(
        "<6s10xHHIQQQIHHHHHH", b"\x7fELF\x02\x01", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2
    )
    sections = [
        struct.pack("<IIQQQQ24x", 0, 0, 0, 0, 0, 0),
        struct.pack("<IIQQQQ24x", 1, 1, 0, 0, 64, len(info)),
        struct.pack("<IIQQQQ24x", 2 + len(name), 3, 0, 0, 64 + len(info), len(names)),
    ]
    return header + body + b"".join(sections)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Modules of a kernel: `disk` needs `bus`, that needs `ring`, as does `ether-net`; `core` is built in."""
    folder = tmp_path / "kernel" / "drivers"
    folder.mkdir(parents=True)
    for name, depends in {"ring": "", "bus": "ring", "disk": "bus,core", "ether-net": "ring"}.items():
        (folder / f"{name}.ko").write_bytes(module(depends))
    (tmp_path / "modules.builtin").write_text("kernel/core/core.ko\n")
    return tmp_path


def test_an_archive_reads_back() -> None:
    entries = [
        Entry("folder", stat.S_IFDIR | 0o755),
        Entry("folder/odd", stat.S_IFREG | 0o644, b"12345"),
        Entry("folder/even", stat.S_IFREG | 0o755, b"1234"),
        Entry("node", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("empty", stat.S_IFREG | 0o644),
    ]
    assert read(archive(entries)) == entries


def test_an_archive_of_nothing_is_its_trailer() -> None:
    assert read(archive([])) == []


def test_the_agent_is_init_and_modules_stand_in_loading_order(tmp_path: Path, tree: Path) -> None:
    agent = tmp_path / "agent"
    agent.write_bytes(b"agent")
    found = {entry.name: entry for entry in contents(load_order(["disk"], tree), agent)}
    assert found["init"].data == b"agent"
    assert found["init"].mode == stat.S_IFREG | 0o755
    assert found["modules"].data == b"/lib/modules/ring.ko\n/lib/modules/bus.ko\n/lib/modules/disk.ko\n"
    assert found["lib/modules/ring.ko"].data == module("")
    assert found["dev/console"].device == (5, 1)
    assert stat.S_ISCHR(found["dev/console"].mode)


def test_folders_come_before_what_is_in_them(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "agent").write_bytes(b"")
    seen: set[str] = {"."}
    for entry in contents(load_order(["disk"], tree), tmp_path / "agent"):
        assert str(Path(entry.name).parent) in seen
        seen.add(entry.name)


def test_each_module_comes_once_and_after_what_it_needs(tree: Path) -> None:
    names = [path.stem for path in load_order(["ether_net", "disk", "bus"], tree)]
    assert names == ["ring", "ether-net", "bus", "disk"]


def test_what_is_built_in_is_not_loaded(tree: Path) -> None:
    assert load_order(["core"], tree) == []


def test_a_module_that_the_kernel_has_not(tree: Path) -> None:
    with pytest.raises(BuildFailed, match="no module teapot"):
        load_order(["teapot"], tree)


@pytest.mark.parametrize(("depends", "found"), [("", []), ("a", ["a"]), ("a,b-c", ["a", "b-c"])])
def test_dependencies_are_read_from_the_module_itself(depends: str, found: list[str]) -> None:
    assert dependencies(module(depends)) == found


def test_a_module_without_the_section_depends_on_nothing() -> None:
    assert dependencies(module("a", name=b".comment")) == []


@pytest.mark.parametrize("data", [b"", b"\x28\xb5\x2f\xfd compressed", b"\x7fELF\x01\x01 of 32 bits"])
def test_what_is_no_module_is_refused(data: bytes) -> None:
    with pytest.raises(BuildFailed, match="compressed"):
        dependencies(data)


def test_the_file_is_named_by_its_inputs_and_made_once(tmp_path: Path, tree: Path) -> None:
    cache, agent = Cache(tmp_path / "cache"), tmp_path / "agent"
    kernel = Kernel("1", "1-cloud", tree / "vmlinuz", tuple(load_order(["disk"], tree)), "kernel digest")
    agent.write_bytes(b"one")
    first = ensure_initramfs(cache, kernel, agent)
    made = first.stat().st_ino
    assert ensure_initramfs(cache, kernel, agent) == first
    assert first.stat().st_ino == made
    agent.write_bytes(b"two")
    assert ensure_initramfs(cache, kernel, agent) != first
    assert sorted(path.suffix for path in first.parent.iterdir()) == [".cpio", ".cpio"]
