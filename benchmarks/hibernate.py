"""How long until a sandbox sleeps on the disk, and until it is used again."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import httpx2
import msgspec

from benchmarks.api import JSON, TIMEOUT, answer_of, headers
from benchmarks.create import GUIDE_MS
from benchmarks.notebook import Notebook
from benchmarks.own import MB, fill, own_of, pid_of
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, Bar, at_most
from pandastack.host.zygotes import MOST_COPIES
from pandastack.testing.server import Server

OWN_BYTES = 10 * MB
SHARE = 5
"""Rounds of one sandbox before another takes over."""
WARM_UP = 3
AT_ONCE = 100
FORGOTTEN = 10
HIBERNATE_LIMIT, WAKE_LIMIT = 2.0, 1.3

HOW = (
    f"A sandbox has {OWN_BYTES // MB} MB of random bytes in its memory (MB are 10⁶ bytes). In turn another is"
    " created, runs `true` and is deleted, and the first is hibernated, woken, hibernated again and used:"
    f" `true` is run in it, which wakes it. After {SHARE} rounds another sandbox takes over. A command alone"
    " costs a multiple of a create, which the bar of the last does not allow for; beside it stands the ratio"
    " to a create and its first command. The host keeps the processes of those that have gone to sleep last:"
    f" {MOST_COPIES} at most. So {FORGOTTEN} more sandboxes are hibernated and, when as many others have been"
    " that their processes are gone, used again: they wake from the disk alone. At last"
    f" {AT_ONCE} commands are sent at once to a hibernated one. The phases are those of waking."
)


def measure(stage: Stage, count: int) -> Answer:
    """Hibernate about `2 * count` times, rounded up to whole sandboxes."""
    _warm_up(stage)
    notes = Notebook(stage)
    parts, share = -(-count // SHARE), min(count, SHARE)
    for _ in stage.times(parts, f"sandboxes that sleep {2 * share} times"):
        _sleeper(stage, notes, share)
    _forgotten(stage, notes, min(count, FORGOTTEN))
    restores = _at_once(stage, notes)
    facts: dict[str, float | str] = {
        "p50 of wake / p50 of create": round(notes.creates("wake_ms"), 2),
        "p50 of wake until exec answers / p50 of create and first exec": round(
            notes.of("wake_and_exec_ms").p50 / notes.of("create_and_exec_ms").p50, 2
        ),
        "p50 of wake from the disk alone until exec answers / p50 of create": round(
            notes.creates("wake_from_disk_and_exec_ms"), 2
        ),
        f"restores for {AT_ONCE} commands at once": restores,
    }
    return notes.answer(HOW, _bars(notes, restores), facts)


def _warm_up(stage: Stage) -> None:
    notes = Notebook(stage)
    for _ in range(WARM_UP):
        notes.create()
    with stage.api.sandbox() as sandbox_id:
        _round(stage, notes, sandbox_id)
    asyncio.run(_burst(stage.server, []))


def _sleeper(stage: Stage, notes: Notebook, share: int) -> None:
    with stage.api.sandbox() as sandbox_id:
        fill(stage.api, sandbox_id, OWN_BYTES)
        own = own_of(stage, sandbox_id, pid_of(stage.api, sandbox_id))
        notes.add(own_pages_MB=own.pages / MB, own_disk_MB=own.fresh / MB)
        for number in range(share):
            with notes.attempt(f"round {number}"):
                _round(stage, notes, sandbox_id)
        for told in _told(stage, sandbox_id, "sandbox.hibernated"):
            notes.add(image_MB=told["size_bytes"] / MB)
        for told in _told(stage, sandbox_id, "sandbox.woken"):
            notes.add(**{f"phase_{name}_ms": spent for name, spent in told["phases"].items()})


def _round(stage: Stage, notes: Notebook, sandbox_id: str) -> None:
    notes.create()
    _, first = stage.api.order(sandbox_id, "hibernate")
    _, wake = stage.api.order(sandbox_id, "wake")
    notes.create()
    _, second = stage.api.order(sandbox_id, "hibernate")
    _, used = stage.api.exec(sandbox_id, "true")
    for hibernate in (first, second):
        notes.add(hibernate_ms=hibernate)
    notes.add(wake_ms=wake, wake_and_exec_ms=used)


def _forgotten(stage: Stage, notes: Notebook, count: int) -> None:
    """Wakes of those whose processes the host keeps no more."""
    with ExitStack() as stack:
        asleep = [stack.enter_context(stage.api.sandbox()) for _ in range(count + MOST_COPIES)]
        for sandbox_id in asleep:
            fill(stage.api, sandbox_id, OWN_BYTES)
            stage.api.order(sandbox_id, "hibernate")
        for sandbox_id in asleep[:count]:
            with notes.attempt("wake from the disk alone"):
                notes.add(wake_from_disk_and_exec_ms=stage.api.exec(sandbox_id, "true")[1])


def _told(stage: Stage, sandbox_id: str, event: str) -> list[JSON]:
    """What was told with each event of a kind."""
    events = stage.api.get(f"/v1/sandboxes/{sandbox_id}/events?tail=1000")["events"]
    return [each["payload"] for each in events if each["type"] == event]


def _at_once(stage: Stage, notes: Notebook) -> int:
    """So many restores it took."""
    with stage.api.sandbox() as sandbox_id:
        fill(stage.api, sandbox_id, OWN_BYTES)
        stage.api.order(sandbox_id, "hibernate")
        outcomes = asyncio.run(_burst(stage.server, [sandbox_id] * AT_ONCE))
        for outcome in outcomes:
            with notes.attempt("command at once with others"):
                if isinstance(outcome, BaseException):
                    raise outcome
                notes.add(at_once_ms=outcome)
        return len(_told(stage, sandbox_id, "sandbox.woken"))


async def _burst(server: Server, sandbox_ids: list[str]) -> list[float | BaseException]:
    """A command in each at once: milliseconds, or what went wrong."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=len(sandbox_ids))
    async with httpx2.AsyncClient(
        base_url=server.url, headers=headers(server), timeout=TIMEOUT, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(client.get("/v1/version") for _ in sandbox_ids))  # the connections exist
        commands = (_command(client, sandbox_id) for sandbox_id in sandbox_ids)
        return await asyncio.gather(*commands, return_exceptions=True)


async def _command(client: httpx2.AsyncClient, sandbox_id: str) -> float:
    began = time.perf_counter()
    body = msgspec.json.encode({"cmd": ["true"]})
    answer_of(await client.post(f"/v1/sandboxes/{sandbox_id}/exec", content=body))
    return (time.perf_counter() - began) * 1000


def _bars(notes: Notebook, restores: int) -> list[Bar]:
    return [
        notes.within_creates("hibernate", "hibernate_ms", HIBERNATE_LIMIT),
        at_most(
            "p50 of hibernate", notes.of("hibernate_ms").p50, HIBERNATE_LIMIT * GUIDE_MS, "ms", guide=True
        ),
        notes.within_creates("wake until exec answers", "wake_and_exec_ms", WAKE_LIMIT),
        at_most(
            "p50 of wake until exec answers",
            notes.of("wake_and_exec_ms").p50,
            WAKE_LIMIT * GUIDE_MS,
            "ms",
            guide=True,
        ),
        at_most(f"restores for {AT_ONCE} commands at once", restores, 1),
    ]


QUESTION = Question("how long until a sandbox sleeps, and until it is used again", measure, count=25, quick=2)
