"""Why a machine died, told from its exit status and its last words."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.host.death import cause_of_death, shorten
from pandastack.host.jail import NOT_OURS

CHATTER = "qemu: -chardev socket,id=agent: info: QEMU waiting for connection"
RESTORED = "qemu: Expected vmdescription section, but got 0"


@pytest.mark.parametrize(
    ("status", "words", "cause"),
    [
        (0, CHATTER, "The guest powered itself off."),
        (-9, "", "The virtual machine's process was killed by signal 9 (SIGKILL)."),
        (
            0,
            "x\n[1.2] Kernel panic - not syncing: why\ny",
            "kernel panicked: [1.2] Kernel panic - not syncing: why",
        ),
        (1, f"{CHATTER}\ncannot map memory", "ended with status 1. Its last lines: cannot map memory"),
        (NOT_OURS, f"{CHATTER}\n{RESTORED}", "its exit status is not known. Its last lines: none"),
    ],
)
def test_the_cause_is_a_sentence(status: int, words: str, cause: str) -> None:
    assert cause in cause_of_death(status, words)


def test_a_long_log_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 5000 + b"the end")
    shorten(log, 10_000, 100)
    assert log.stat().st_size == 5007
    shorten(log, 1000, 100)
    assert log.read_bytes() == b"a" * 93 + b"the end"
    shorten(tmp_path / "missing", 1, 1)
