"""One change at a time a sandbox, and one flight for all who ask for the same."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pandastack.errors import Conflict
from pandastack.services.turns import Flights, Turns

pytestmark = pytest.mark.anyio


async def test_turns_of_one_sandbox_come_one_after_the_other() -> None:
    turns, order = Turns(), []

    async def take(number: int) -> None:
        async with turns.turn("a"):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(take(number) for number in range(3)))
    assert order == [0, 0, 1, 1, 2, 2]
    assert not turns.is_taken("a")


async def test_turns_of_two_sandboxes_do_not_wait_for_each_other() -> None:
    turns = Turns()
    async with turns.turn("a"), asyncio.timeout(5), turns.turn("b"):
        assert turns.is_taken("a") and turns.is_taken("b")


async def test_one_who_gives_up_waiting_holds_nobody_up() -> None:
    turns = Turns()
    async with turns.turn("a"):
        waiting = asyncio.ensure_future(turns.turn("a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(5), turns.turn("a"):
        pass
    assert not turns.is_taken("a")


async def test_who_would_use_it_waits_until_it_is_back() -> None:
    turns = Turns()
    await turns.settled("a")
    with turns.away("a"):
        using = asyncio.ensure_future(turns.settled("a"))
        await asyncio.sleep(0)
        assert not using.done()
    await using


async def test_all_who_ask_at_once_share_one_flight() -> None:
    flights: Flights[int] = Flights()
    begun = 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        return begun

    assert await asyncio.gather(*(flights.join("a", work) for _ in range(100))) == [1] * 100
    assert await flights.join("a", work) == 2


async def test_all_are_told_the_same_error_and_the_next_tries_again() -> None:
    flights: Flights[None] = Flights()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise Conflict("no")

    outcomes = await asyncio.gather(*(flights.join("a", fail) for _ in range(3)), return_exceptions=True)
    assert len({id(outcome) for outcome in outcomes}) == 1 and isinstance(outcomes[0], Conflict)
    with pytest.raises(Conflict):
        await flights.join("a", fail)


async def test_a_flight_goes_on_for_those_who_stay_and_ends_with_the_last() -> None:
    flights: Flights[str] = Flights()
    go, ended = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            await go.wait()
        finally:
            ended.set()
        return "landed"

    first, second = (asyncio.ensure_future(flights.join("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert not ended.is_set()
    second.cancel()
    await asyncio.wait([second])
    assert ended.is_set() and second.cancelled()
    third = asyncio.ensure_future(flights.join("a", work))
    go.set()
    assert await third == "landed"


async def test_how_a_flight_ends_that_nobody_waits_for_is_no_fault() -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    flights: Flights[None] = Flights()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Conflict("it was ended at the same moment") from None

    waiting = asyncio.ensure_future(flights.join("a", work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    gc.collect()
    assert waiting.cancelled() and told == []
