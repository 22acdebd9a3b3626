"""What is carried through ends before whoever waits for it goes, and its end is nobody's fault."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pandastack.carrying import beside, carried_through, undone

pytestmark = pytest.mark.anyio


async def test_it_ends_before_its_caller_goes_however_often_that_is_cancelled() -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    go, ended = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        await go.wait()
        ended.set()
        raise ValueError("nobody asks for it")

    calling = asyncio.ensure_future(carried_through(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        calling.cancel()
        await asyncio.sleep(0)
        assert not calling.done()
    go.set()
    await asyncio.wait([calling])
    assert ended.is_set() and calling.cancelled()
    gc.collect()
    assert told == []


async def test_its_result_and_its_error_are_its_callers() -> None:
    async def work(number: int) -> int:
        return 1 // number

    assert await carried_through(work(1)) == 1
    with pytest.raises(ZeroDivisionError):
        await carried_through(work(0))


async def test_what_two_undo_at_once_leaves_nothing_behind() -> None:
    tidied = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            tidied.set()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    first, second = (asyncio.ensure_future(undone(task)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first, second])
    assert tidied.is_set() and task.cancelled()
    assert first.cancelled() and not second.cancelled()


async def test_what_runs_beside_a_block_has_ended_with_it_and_one_that_fails_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[str] = []

    async def lasts() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    async def fails() -> None:
        raise ValueError("a mistake in it")

    async with beside(lasts(), fails()):
        await asyncio.sleep(0.01)
        steps.append("block")
    assert steps == ["block", "ended"]
    said = capsys.readouterr()
    assert "background.crashed" in said.out + said.err and "a mistake in it" in said.out + said.err
