"""What the network of a sandbox costs: making one, taking one, and a create with it against one without."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from benchmarks.api import Api, connected
from benchmarks.percentiles import summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most, none_of
from benchmarks.servers import fresh_server, server_of
from benchmarks.slot_cycles import READY, cycle, settled
from pandastack.host.egress.client import Account
from pandastack.host.network import namespace
from pandastack.host.network.slots import Slots, open_slots
from pandastack.model.egress import Egress

TAKE_MS, MAKE_MS, RATIO = 1.0, 10.0, 1.25
OWN = Account(231_007, 231_007)
"""Whom the egress process runs as."""
CYCLES_EACH = 20
"""Slots taken and given back for each one that is made."""
KEPT_READY = READY
WARM_UP = 40
POLICY = Egress(allow_cidrs=("198.51.100.0/24",), ports=(443,))

HOW = (
    "Networks are made one after the other by a host of its own, then taken and given back, with and without "
    "a policy. As many more go through whole cycles, by every kind of policy, and what there is more of is "
    "counted. Then sandboxes are created in turn on this server, on one whose machines have no network, and "
    "on one of an older version, where `--baseline` names its checkout."
)


def measure(stage: Stage, count: int) -> Answer:
    """Make `count` networks, take many more, and create `count` sandboxes each way."""
    before = _left()
    samples = asyncio.run(_slots(stage.times(count, "networks"), count))
    cycles = asyncio.run(_cycles(count * CYCLES_EACH))
    left = _left() - before
    samples |= _creates(stage, count)
    summaries = {name: summarize(values) for name, values in samples.items()}
    create = summaries["create_ms"].p50
    bars = [
        at_most("p50 of taking a network", summaries["take_ms"].p50, TAKE_MS, "ms"),
        at_most("p50 of making a network", summaries["make_ms"].p50, MAKE_MS, "ms"),
        at_most("p50 of create / without network", create / summaries["create_without_ms"].p50, RATIO, "×"),
        none_of("networks left", len(left)),
        none_of(f"things more after {count * CYCLES_EACH:,} cycles", len(cycles.grown)),
    ]
    if "create_baseline_ms" in summaries:
        older = summaries["create_baseline_ms"].p50
        bars.append(at_most("p50 of create / of the older version", create / older, RATIO, "×"))
    return Answer(
        how=HOW,
        bars=bars,
        summaries=summaries,
        samples=samples,
        facts={
            "cycles": count * CYCLES_EACH,
            "grown_egress_kib": cycles.egress_kib,
            "grown_maker_kib": cycles.maker_kib,
            "grown_slab_kib": cycles.slab_kib,
        },
        findings=[*sorted(left), *cycles.grown],
    )


class Growth(Struct, frozen=True):
    """What there is more of after many cycles: things, one line each, and memory. The kernel's is that of the
    whole machine, which others use too.
    """

    grown: list[str]
    egress_kib: int
    maker_kib: int
    slab_kib: int


async def _cycles(count: int) -> Growth:
    with tempfile.TemporaryDirectory(prefix="pandastack-bench-") as home:
        state = Path(home)
        async with _kept(state, KEPT_READY) as slots:
            await cycle(slots, WARM_UP)
            before = await settled(state)
            await cycle(slots, count)
            after = await settled(state)
    return Growth(
        after.more_than(before),
        after.egress_kib - before.egress_kib,
        after.maker_kib - before.maker_kib,
        after.slab_kib - before.slab_kib,
    )


def _creates(stage: Stage, count: int) -> dict[str, list[float]]:
    """Milliseconds of creates on each of the servers, in turn."""
    with ExitStack() as others:
        bare = others.enter_context(fresh_server({"PANDASTACK_NETWORK": "none"}))
        apis = {"create_ms": stage.api, "create_without_ms": others.enter_context(connected(bare))}
        if stage.baseline is not None:
            older = others.enter_context(server_of(stage.baseline))
            apis["create_baseline_ms"] = others.enter_context(connected(older))
        samples: dict[str, list[float]] = {name: [] for name in apis}
        for _ in stage.times(count, "creates"):
            for name, api in apis.items():
                samples[name].append(_created(api))
    return samples


def _created(api: Api) -> float:
    made, elapsed = api.create()
    api.delete(made["id"])
    return elapsed


async def _slots(times: Iterable[int], count: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {"make_ms": [], "take_ms": [], "take_with_policy_ms": []}
    async with _open(0) as slots:  # none is ready: each is made when it is asked for
        for _ in times:
            samples["make_ms"].append(await _taken(slots, Egress()))
    async with _open(KEPT_READY) as slots:
        await asyncio.sleep(1.0)
        for turn in range(count * CYCLES_EACH):
            name = "take_with_policy_ms" if turn % 10 == 0 else "take_ms"
            samples[name].append(await _taken(slots, POLICY if turn % 10 == 0 else Egress()))
            while slots.ready < KEPT_READY // 2:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.002)
    return samples


async def _taken(slots: Slots, egress: Egress) -> float:
    began = time.perf_counter()
    slot = await slots.take(egress)
    elapsed = (time.perf_counter() - began) * 1000
    slots.give_back(slot.number)
    return elapsed


def _kept(state: Path, ready: int) -> AbstractAsyncContextManager[Slots]:
    return open_slots(state, None, (), lambda: datetime.now(UTC), account=OWN, ready=ready)


@asynccontextmanager
async def _open(ready: int) -> AsyncIterator[Slots]:
    with tempfile.TemporaryDirectory(prefix="pandastack-bench-") as state:
        async with _kept(Path(state), ready) as slots:
            yield slots


def _left() -> set[str]:
    return {path.name for path in namespace.FOLDER.glob("panda[0-9]*")}


QUESTION = Question("what the network of a sandbox costs", measure, count=100, quick=3)
