"""What of two sights is told as different."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pandastack.model.diff import ChangeReason, FileAt, FileChange, PortAt, ProcessAt
from pandastack.model.guest import FileEntry, FileKind
from pandastack.services.diffs import difference, told
from pandastack.services.sights import Sight, listening

FILE = FileEntry("f", FileKind.FILE, 5, 0o644, 1000)

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21 1
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 22 1
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"uid": 7}, None),
        ({"kind": FileKind.DIRECTORY}, ChangeReason.KIND),
        ({"size": 6, "mode": 0o600}, ChangeReason.SIZE),
        ({"mode": 0o755, "mtime_ns": 2}, ChangeReason.MODE),
        ({"mtime_ns": 2}, ChangeReason.MTIME),
        ({"ctime_ns": 2}, ChangeReason.MTIME),
    ],
)
def test_a_file_is_another_when_what_is_known_of_it_differs(
    change: dict[str, Any], reason: ChangeReason | None
) -> None:
    assert difference(FILE, msgspec.structs.replace(FILE, **change)) is reason


def test_a_directory_is_not_changed_by_what_is_in_it() -> None:
    before = FileEntry("d", FileKind.DIRECTORY, 4096, 0o755, 1)
    after = msgspec.structs.replace(before, size=8192, mtime_ns=2)
    assert difference(before, after) is None
    link = FileEntry("l", FileKind.LINK, 1, 0o777, 1, link="a")
    assert difference(link, msgspec.structs.replace(link, link="b")) is ChangeReason.LINK


def test_listening_ports_are_read_from_the_kernels_tables() -> None:
    assert listening(TABLE) == [PortAt(8080, "127.0.0.1")]
    assert listening(TABLE6) == [PortAt(22, "::"), PortAt(80, "::1")]
    assert listening("") == []


def test_each_list_is_in_order_and_cut() -> None:
    first, second = ProcessAt(1, "init"), ProcessAt(9, "x")
    before = Sight({"/a": FILE, "/b": FILE}, frozenset({first}), frozenset({PortAt(80, "::")}))
    after = Sight({"/b": FILE, "/d": FILE, "/c": FILE}, frozenset({first, second}), frozenset())
    whole = told(before, after, {"/b": ChangeReason.CONTENT}, 2)
    assert whole.files.added == [FileAt("/c", 5), FileAt("/d", 5)]
    assert whole.files.removed == [FileAt("/a", 5)]
    assert whole.files.changed == [FileChange("/b", 5, 5, ChangeReason.CONTENT)]
    assert (whole.processes.started, whole.processes.ended) == ([second], [])
    assert (whole.ports.opened, whole.ports.closed) == ([], [PortAt(80, "::")])
    assert not whole.truncated
    cut = told(before, after, {}, 1)
    assert cut.truncated and cut.files.added == [FileAt("/c", 5)]
