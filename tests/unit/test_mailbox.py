"""What waits between a kernel and whoever reads its cell is bounded."""

from __future__ import annotations

import asyncio

import pytest

from pandastack.errors import PortClosed
from pandastack.jupyter.mailbox import Mailbox

pytestmark = pytest.mark.anyio


async def test_who_would_put_more_than_fits_waits_until_it_is_taken() -> None:
    box: Mailbox[int] = Mailbox(100)
    await box.put(1, 60)
    putting = asyncio.create_task(box.put(2, 60))
    await asyncio.sleep(0.01)
    assert not putting.done()
    assert await box.take() == 1
    await putting
    assert await box.take() == 2


async def test_one_that_is_larger_than_all_fits_alone() -> None:
    box: Mailbox[int] = Mailbox(100)
    await box.put(1, 1000)
    assert await box.take(0.1) == 1


async def test_nobody_waits_for_one_that_is_closed() -> None:
    box: Mailbox[int] = Mailbox(100)
    await box.put(1, 100)
    putting = asyncio.create_task(box.put(2, 100))
    await asyncio.sleep(0.01)
    await box.close()
    await asyncio.wait_for(putting, 1)


async def test_what_is_there_comes_before_the_error() -> None:
    box: Mailbox[int] = Mailbox()
    await box.put(1, 1)
    await box.fail(PortClosed("it left"))
    assert await box.take() == 1
    with pytest.raises(PortClosed):
        await box.take()


async def test_a_taker_waits_no_longer_than_it_says() -> None:
    with pytest.raises(TimeoutError):
        await Mailbox[int]().take(0.01)
