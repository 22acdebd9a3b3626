"""The pool of slots: some are ready at any time, made and made anew in the background.

Whoever starts a machine takes a ready one, which costs nothing; whoever ends one gives its slot back. When
none is ready one is made while its machine waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from pandastack.carrying import beside, carried_through, unless_cancelled
from pandastack.errors import MachineError, NoCapacity, PandastackError
from pandastack.host.egress.authority import kept_authority
from pandastack.host.egress.client import Account
from pandastack.host.egress.orders import Begin
from pandastack.host.network import ground
from pandastack.host.network.addresses import slots_in
from pandastack.host.network.claims import Claims
from pandastack.host.network.counts import parse, receipts_of
from pandastack.host.network.gatekeeper import Gatekeeper
from pandastack.host.network.maker.client import Maker
from pandastack.host.network.policy import kernel_policy
from pandastack.host.network.slot import Slot, remove
from pandastack.model.book import Sighting
from pandastack.model.egress import BoundSecret, Egress

AUTHORITY = "egress.ca"
"""The file of a state directory with the authority that guests trust which have secrets."""
MAKER_LOG = "maker.log"
"""What the process says that makes networks: nothing, while all is well."""
REST_SECONDS = 0.05
"""Before one is made or some are removed: whoever starts a machine now is served first, and the kernel lets
nobody make a network while it removes one.
"""
RETRY_SECONDS = 5.0
AT_A_TIME = 16
"""Of more than are needed so many are removed together."""

log = structlog.get_logger("host")


class Slots:
    """The slots of one host. Made by `open_slots`."""

    def __init__(
        self,
        claims: Claims,
        pool: IPv4Network,
        denied: Sequence[IPv4Network],
        gatekeeper: Gatekeeper,
        maker: Maker,
        now: Callable[[], datetime],
        *,
        ready: int,
    ) -> None:
        self._claims = claims
        self._pool = pool
        self._denied = denied
        self._gatekeeper = gatekeeper
        self._maker = maker
        self._now = now
        self._most = ready
        self._fills = True
        self._since: dict[int, datetime] = {}
        self._ready: deque[Slot] = deque()
        self._used: dict[int, Slot] = {}
        self._given_back: deque[Slot] = deque()
        self._left = claims.left()
        self._wanted = asyncio.Event()
        self._wanted.set()

    @property
    def ready(self) -> int:
        """How many can be taken at once."""
        return len(self._ready)

    @property
    def certificate(self) -> str | None:
        """What guests are to trust that secrets are put in for, PEM; None on a host that puts in none."""
        return self._gatekeeper.certificate

    async def take(self, egress: Egress, secrets: tuple[BoundSecret, ...] = ()) -> Slot:
        """A slot for one machine. NoCapacity when there are no more, BuildFailed, MachineError."""
        slot = self._ready.popleft() if self._ready else await self._made()
        self._wanted.set()
        self._used[slot.number] = slot
        self._since[slot.number] = self._now()
        try:
            await self._told(slot, egress, secrets, runs=False)
        except BaseException:
            self.give_back(slot.number)
            raise
        return slot

    def give_back(self, number: int) -> None:
        """The machine of a slot has ended. Fine when nobody has it."""
        slot = self._used.pop(number, None)
        self._since.pop(number, None)
        if slot is not None:
            self._given_back.append(slot)
            self._wanted.set()

    async def obey(self, number: int, egress: Egress, secrets: tuple[BoundSecret, ...] | None = ()) -> None:
        """Have the slot of a machine keep another policy from now on, and put these secrets in; None is that
        there are some which nobody has told yet. BuildFailed, MachineError.
        """
        slot, _ = self._held(number)
        if secrets is None:
            await slot.obey(kernel_policy(egress, bound=True))
        else:
            await self._told(slot, egress, secrets, runs=True)

    async def receipts(self, number: int, egress: Egress) -> Sighting:
        """What the machine of a slot has reached under its policy, and what was kept from it."""
        slot, since = self._held(number)
        counts = parse(await slot.counted())
        process, named = await self._gatekeeper.receipts(number)
        self._check_held(number, since)  # what was counted of a slot that was made anew is nobody's
        names = {} if named is None else named.names
        by_address = receipts_of(counts, egress, names, since, self._now())
        by_name = () if named is None else named.receipts
        return Sighting(slot.name, tuple(by_address), process, by_name)

    async def adopt(self, number: int, egress: Egress, *, bound: bool = False) -> None:
        """A machine that runs has this slot since an earlier life of this program. One that secrets are
        `bound` for reaches nothing by TCP until `obey` tells them: no placeholder is to leave in their place.
        """
        slot = Slot(number, self._pool, self._denied, self._maker)
        self._used[number] = slot
        self._since[number] = self._now()
        try:
            await slot.keep(kernel_policy(egress, bound=bound))
            if not bound:
                await self._gatekeeper.serve(number, slot.name, egress)
        except (PandastackError, OSError) as error:  # the machine lives; its next policy is tried anew
            log.warning("network.not_kept", slot=number, reason=str(error))

    async def tidy(self) -> None:
        """Remove what earlier lives left and no machine has."""
        await self._remove(sorted(self._left - self._used.keys()))

    async def keep_ready(self) -> None:
        """Make slots, and make those anew that were given back, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._refill()
            except (PandastackError, OSError) as error:
                unless_cancelled(error)
                log.warning("network.not_ready", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._wanted.set()

    async def close(self) -> None:
        """Remove those that no machine has. The others stay with theirs, for the next life."""
        slots = (*self._ready, *self._given_back)
        self._ready.clear()
        self._given_back.clear()
        await self._end(*slots)

    async def _refill(self) -> None:
        """Those that were given back first. New ones are made when half are gone: who comes and goes one at a
        time has none made.
        """
        self._fills |= len(self._ready) + len(self._given_back) < self._most // 2
        while self._given_back or (self._fills and len(self._ready) < self._most):
            await asyncio.sleep(REST_SECONDS)
            surplus = len(self._ready) + len(self._given_back) - self._most
            if surplus > 0 and self._given_back:
                some = min(surplus, AT_A_TIME, len(self._given_back))
                await self._end(*(self._given_back.popleft() for _ in range(some)))
                continue
            if self._given_back:
                await self._renew(self._given_back.popleft())
            else:
                self._ready.append(await self._made())
        self._fills = False

    async def _renew(self, slot: Slot) -> None:
        """Of one that cannot be made anew nothing is left."""
        try:
            await self._gatekeeper.leave(slot.number)
            await slot.renew()
            await self._gatekeeper.serve(slot.number, slot.name, Egress())
        except BaseException:
            await self._end(slot)
            raise
        self._ready.append(slot)

    async def _made(self) -> Slot:
        number = self._claims.take(slots_in(self._pool))
        if number is None:
            raise NoCapacity(f"All {slots_in(self._pool)} networks of {self._pool} are in use.")
        slot = Slot(number, self._pool, self._denied, self._maker)
        try:
            await slot.make()
            await self._gatekeeper.serve(number, slot.name, Egress())
        except BaseException:
            await self._end(slot)
            raise
        return slot

    async def _told(
        self, slot: Slot, egress: Egress, secrets: tuple[BoundSecret, ...], *, runs: bool
    ) -> None:
        """The kernel first: what it does not lead to the proxy nobody else decides about."""
        _, since = self._held(slot.number)
        await slot.obey(kernel_policy(egress, bound=bool(secrets)), runs=runs)
        self._check_held(slot.number, since)  # or the next machine's would be told
        await self._gatekeeper.serve(slot.number, slot.name, egress, secrets)

    def _held(self, number: int) -> tuple[Slot, datetime]:
        """A slot that a machine has, and since when. MachineError."""
        if number not in self._used:
            raise MachineError("The machine has ended, and its network is no longer its own.")
        return self._used[number], self._since[number]

    def _check_held(self, number: int, since: datetime) -> None:
        """MachineError when it was given back meanwhile."""
        if self._held(number)[1] is not since:
            raise MachineError("The machine has ended, and its network is another's.")

    async def _end(self, *slots: Slot) -> None:
        """Nothing of them is left, whoever is cancelled meanwhile."""
        await carried_through(self._ended(*slots))

    async def _ended(self, *slots: Slot) -> None:
        numbers = [slot.number for slot in slots]
        for slot in slots:
            slot.let_go()
        try:
            for slot in slots:
                await self._gatekeeper.leave(slot.number)
            await self._remove(numbers)
        except (PandastackError, OSError) as error:  # the next life takes them back
            log.warning("network.not_removed", slots=numbers, reason=str(error))

    async def _remove(self, numbers: Sequence[int]) -> None:
        """The number of one that cannot be removed stays taken: this life and the next go on without it."""
        kept = await remove(numbers)
        for number in numbers:
            if number not in kept:
                self._claims.give_back(number)
        if kept:
            log.warning("network.not_removed", slots=sorted(kept), reason=next(iter(kept.values())))


@asynccontextmanager
async def open_slots(
    state: Path,
    wanted: IPv4Network | None,
    name_servers: Sequence[str],
    now: Callable[[], datetime],
    *,
    account: Account,
    ready: int,
    trust: str | None = None,
) -> AsyncIterator[Slots]:
    """The slots of the host whose state lies there. At the end the unused ones are removed, and with the last
    slot of this machine all that was changed of its network. So many are kept `ready`. The process that knows
    names runs as `account`, which nobody else may be. Hosts that secrets are
    bound to prove their names by the certificates in `trust`, PEM, else by the system's.
    """
    claims = Claims(state)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = kept_authority(state / AUTHORITY, now())
    pool, denied = await ground.prepare(state, wanted)
    begin = Begin(tuple(name_servers), own=tuple(map(str, denied)), authority=authority, trust=trust)
    gatekeeper = Gatekeeper(begin, state, account)
    async with Maker(state / MAKER_LOG) as maker:
        slots = Slots(claims, pool, denied, gatekeeper, maker, now, ready=ready)
        try:
            async with beside(gatekeeper.run(), slots.keep_ready()):
                yield slots
        finally:
            await slots.close()
            if not claims.left():
                await ground.leave(state)


def name_servers_of(resolv_conf: Path) -> tuple[str, ...]:
    """The name servers of this machine, IPv4."""
    try:
        lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    except OSError:
        return ()
    return tuple(words[1] for words in lines if words[:1] == ["nameserver"] and ":" not in words[-1])
