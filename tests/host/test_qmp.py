"""The monitor's protocol, as QEMU speaks it at moments that are hard to come by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pandastack.errors import MachineError
from pandastack.host.qmp import QmpRefused, monitor

pytestmark = pytest.mark.anyio

EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "JOB_STATUS_CHANGE", "data": {}}\r\n'
GREETING = b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}\r\n'


@asynccontextmanager
async def spoken(path: Path, first: bytes, *answers: bytes) -> AsyncIterator[None]:
    """Somebody listens at `path`, says `first` to one who connects, and answers each line with the next."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for answer in answers:
            await reader.readline()
            writer.write(answer)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_unix_server(serve, path):
        yield
        await asyncio.wait_for(ended.wait(), 5)


async def test_events_come_at_any_moment(tmp_path: Path) -> None:
    """Also before the greeting: one that was on its way to the connection before this one."""
    path = tmp_path / "qmp"
    answers = (EVENT + b'{"return": {}}\r\n', EVENT + EVENT + b'{"return": {"running": true}}\r\n')
    async with spoken(path, EVENT + GREETING, *answers), monitor(path) as qmp:
        assert await qmp.execute("query-status") == {"running": True}


async def test_a_refusal_has_the_words_of_qemu(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    refusal = b'{"error": {"class": "GenericError", "desc": "no such node"}}\r\n'
    async with spoken(path, GREETING, b'{"return": {}}\r\n', refusal), monitor(path) as qmp:
        with pytest.raises(QmpRefused, match="refused blockdev-del: no such node"):
            await qmp.execute("blockdev-del", {"node-name": "x"})


async def test_orders_that_are_sent_together_are_answered_together(tmp_path: Path) -> None:
    """Also when one of them is refused: what is asked next gets its own answer."""
    path = tmp_path / "qmp"
    no, yes = b'{"error": {"class": "GenericError", "desc": "no"}}\r\n', b'{"return": %d}\r\n'
    answers = (yes % 0, yes % 1, yes % 2, yes % 3, no, yes % 5, yes % 6)
    async with spoken(path, GREETING, *answers), monitor(path) as qmp:
        assert await qmp.execute_all(("one", None), ("two", {"x": 1})) == [1, 2]
        with pytest.raises(QmpRefused, match="refused four: no"):
            await qmp.execute_all(("three", None), ("four", None), ("five", None))
        assert await qmp.execute("six") == 6


async def test_what_is_no_monitor_is_told(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    async with spoken(path, b"SSH-2.0\r\n"):
        with pytest.raises(MachineError, match="no JSON object"):
            async with monitor(path) as qmp:
                await qmp.execute("query-status")
