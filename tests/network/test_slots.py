"""The pool of networks: made, taken, given back, found again, and nothing left of any."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from benchmarks.slot_cycles import cycle, settled

from pandastack.errors import NoCapacity
from pandastack.host.egress.client import Account
from pandastack.host.network import namespace
from pandastack.host.network.addresses import CANDIDATES, addresses_of, choose_pool, slots_in
from pandastack.host.network.claims import FOLDER, Claims
from pandastack.host.network.slots import Slots, open_slots
from pandastack.model.egress import Egress
from tests.network.world import lay

pytestmark = [pytest.mark.anyio, pytest.mark.root]

CYCLES = 200
OWN = Account(231_007, 231_007)
"""Whom the egress process runs as."""


@asynccontextmanager
async def pool(state: Path) -> AsyncIterator[Slots]:
    """Slots whose makers work, as in a host."""
    state.mkdir(exist_ok=True)
    async with open_slots(state, None, (), lambda: datetime.now(UTC), account=OWN, ready=4) as slots:
        yield slots


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def links() -> set[str]:
    lines = said("ip", "-br", "link").splitlines()
    return {line.split("@")[0] for line in lines if line.startswith("panda")}


def tables() -> str:
    return said("nft", "list", "tables")


def spaces(owners: Path) -> set[str]:
    """The namespaces of slots, without those that servers elsewhere on this machine have claimed."""
    found = {path.name for path in namespace.FOLDER.glob("panda[0-9]*")}
    return {name for name in found if Path(_owner(name) or owners).is_relative_to(owners)}


def _owner(name: str) -> str | None:
    try:
        return (FOLDER / name.removeprefix("panda")).read_text()
    except FileNotFoundError:
        return None


async def test_all_of_it_goes_with_the_last_server(tmp_path: Path) -> None:
    before = spaces(tmp_path)
    with lay():
        async with pool(tmp_path / "a") as first, pool(tmp_path / "b") as second:
            mine, other = await first.take(Egress()), await second.take(Egress())
            assert mine.number != other.number
            assert namespace.forwards("eth0") and namespace.forwards(mine.name)
            assert {mine.name, other.name} <= links() and {mine.name, other.name} <= spaces(tmp_path)
            first.give_back(mine.number)
            second.give_back(other.number)
        assert (links(), spaces(tmp_path) - before, tables()) == (set(), set(), "")
        assert not namespace.forwards("eth0")


async def test_what_a_killed_server_left_is_removed_and_what_lives_is_kept(tmp_path: Path) -> None:
    before = spaces(tmp_path)
    with lay():
        async with pool(tmp_path / "state") as slots:
            lives, died = await slots.take(Egress()), await slots.take(Egress())
            lives.let_go()
            died.let_go()
        assert {lives.name, died.name} <= spaces(tmp_path), "a machine may live in them"
        async with pool(tmp_path / "state") as slots:
            await slots.adopt(lives.number, Egress())
            await slots.tidy()
            assert lives.name in spaces(tmp_path) and died.name not in spaces(tmp_path)
            assert (await slots.receipts(lives.number, Egress())).receipts == []
            slots.give_back(lives.number)
        assert (links(), spaces(tmp_path) - before, tables()) == (set(), set(), "")


async def test_slots_of_a_state_that_is_gone_are_anybodys(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    before = spaces(tmp_path)
    with lay():
        async with pool(gone) as slots:
            (await slots.take(Egress())).let_go()
        for path in sorted(gone.rglob("*"), reverse=True):
            path.unlink()
        gone.rmdir()
        async with pool(tmp_path / "next") as slots:
            await slots.tidy()
            assert len(Claims(tmp_path / "next").left()) == len(spaces(tmp_path) - before)
        assert (links(), spaces(tmp_path) - before) == (set(), set())


async def test_a_slot_that_cannot_be_removed_holds_nobody_up(tmp_path: Path) -> None:
    state, before = tmp_path / "state", spaces(tmp_path)
    with lay():
        async with pool(state) as slots:
            stuck, other = await slots.take(Egress()), await slots.take(Egress())
            stuck.let_go()
            other.let_go()
        namespace.remove(stuck.name)
        namespace.path_of(stuck.name).mkdir()
        try:
            async with pool(state) as slots:
                await slots.tidy()
                taken = [await slots.take(Egress()) for _ in range(6)]
                assert stuck.number not in {slot.number for slot in taken}
                for slot in taken:
                    slots.give_back(slot.number)
            assert Claims(state).left() == {stuck.number}
        finally:
            namespace.path_of(stuck.name).rmdir()
        async with pool(state) as slots:
            await slots.tidy()
        assert (links(), spaces(tmp_path) - before, tables()) == (set(), set(), "")
        assert Claims(state).left() == set()


async def test_a_slot_is_taken_at_once_and_made_while_others_run(tmp_path: Path) -> None:
    with lay():
        async with pool(tmp_path / "state") as slots:
            taken = [await slots.take(Egress()) for _ in range(12)]
            assert len({slot.number for slot in taken}) == 12
            for slot in taken:
                slots.give_back(slot.number)


@pytest.mark.timeout(180)
async def test_many_cycles_leave_nothing(tmp_path: Path) -> None:
    """`scripts/bench net` does ten times as many."""
    state = tmp_path / "state"
    with lay():
        async with pool(state) as slots:
            await cycle(slots, 20)
            before = await settled(state)
            await cycle(slots, CYCLES)
            assert (await settled(state)).more_than(before) == []
            lost = namespace.lasting_tap("lost0")
            kept = await slots.take(Egress())
            found = (await settled(state)).more_than(before)
            assert any(namespace.TUN in line for line in found), "the negative control: what is kept is told"
            os.close(lost)
            slots.give_back(kept.number)
        assert (links(), tables()) == (set(), "")


def test_a_range_is_chosen_that_nobody_uses() -> None:
    first, second = CANDIDATES[:2]
    nets = [IPv4Network("0.0.0.0/0"), IPv4Network("192.168.0.0/16")]
    assert choose_pool(None, nets) == first
    assert choose_pool(None, [*nets, IPv4Network("10.200.7.0/24")]) == second
    with pytest.raises(NoCapacity, match="network_range"):
        choose_pool(IPv4Network("10.9.0.0/16"), [IPv4Network("10.0.0.0/8")])
    with pytest.raises(NoCapacity):
        choose_pool(None, CANDIDATES)


def test_a_range_has_16384_slots_of_four_addresses() -> None:
    whole = CANDIDATES[0]
    assert slots_in(whole) == 16_384
    last = addresses_of(16_383, whole)
    assert (str(last.host), str(last.inner)) == ("10.200.255.253/30", "10.200.255.254/30")
    with pytest.raises(ValueError, match="no slot"):
        addresses_of(16_384, whole)


def test_a_number_is_taken_once(tmp_path: Path) -> None:
    folder, one, two = tmp_path / "slots", tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    mine, other = Claims(one, folder), Claims(two, folder)
    assert [mine.take(3), other.take(3), mine.take(3), other.take(3)] == [0, 1, 2, None]
    assert (mine.left(), other.left()) == ({0, 2}, {1})
    mine.give_back(0)
    assert other.take(3) == 0
    two.rmdir()
    assert mine.left() == {0, 1, 2}
