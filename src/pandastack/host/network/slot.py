"""One slot: a namespace with the guest's tap in it, and the way from there to the host."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network

from pandastack.errors import BuildFailed, MachineError
from pandastack.host.network import namespace
from pandastack.host.network.ability import PLACES
from pandastack.host.network.addresses import (
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    RESOLVER,
    SlotAddresses,
    addresses_of,
)
from pandastack.host.network.maker.client import Maker
from pandastack.host.network.maker.orders import Order
from pandastack.host.network.rules import (
    NO_RULES,
    OPEN,
    PREFIX,
    TAP,
    UPLINK,
    Policy,
    policy_rules,
    slot_rules,
)
from pandastack.host.network.ways import Ways
from pandastack.host.tool import run_tool

SECONDS = 10.0
"""How long `ip` may take that removes, and `nft` that lists."""

TRIES = 3

SYSCTLS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "1",
    "ipv4/conf/default/rp_filter": "1",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "netfilter/nf_conntrack_tcp_loose": "0",
}
"""Of a slot's namespace. The last one: a restored guest's old connections are nobody's, and end at once."""


def name_of(number: int) -> str:
    """What a slot's namespace is called, and the host's end of the way to it."""
    return f"{PREFIX}{number}"


class Slot:
    """A slot that is there. `tap` is a descriptor for a machine; the slot's own, closed by `end`."""

    def __init__(self, number: int, pool: IPv4Network, denied: Sequence[IPv4Network], maker: Maker) -> None:
        self.number = number
        self.name = name_of(number)
        self.addresses: SlotAddresses = addresses_of(number, pool)
        self.policy: Policy | None = OPEN
        """What its kernel keeps; None when nobody knows."""
        self.tap = -1
        self._denied = denied
        self._maker = maker
        self._turn = asyncio.Lock()
        """Rules change one at a time, so that `policy` is what the last of them made."""

    @property
    def address(self) -> str:
        """Whence the host sees the guest's packets come."""
        return str(self.addresses.inner.ip)

    async def make(self) -> None:
        """Make all of it, with an open policy. BuildFailed, MachineError; then nothing is left."""
        try:
            namespace.make(self.name, SYSCTLS)
            self._open()
            await self._maker.obey(Order(self.name, slot_rules(self._denied), self._ways()))
        except BaseException:
            await asyncio.shield(self.end())
            raise

    async def obey(self, policy: Policy, *, runs: bool = True) -> None:
        """Have it keep another policy from now on. When a guest `runs`, its connections are forgotten, and so
        end where they are not allowed any more; else there are none.
        """
        if policy != self.policy:
            await self.keep(policy, cut=runs)

    async def keep(self, policy: Policy, *, cut: bool = False) -> None:
        """Have it keep this policy, whatever it kept when an earlier program ended in the middle of a change;
        connections go on unless they are `cut`. BuildFailed, MachineError.
        """
        async with self._turn:
            self.policy = None
            await self._maker.obey(Order(self.name, policy_rules(policy), forget=cut, settled=cut))
            self.policy = policy

    async def counted(self) -> str:
        """What its kernel has counted, as `nft -j list sets` tells it: with numbers of protocols, whose names
        a minimal system does not know.
        """
        within = ("nsenter", f"--net={namespace.path_of(self.name)}")
        return await run_tool(
            ["nft", "-j", "--numeric-protocol", "list", "sets"],
            timeout=SECONDS,
            inside=within,
            settings=PLACES,
        )

    async def renew(self) -> None:
        """As it was made, for the next machine. BuildFailed, MachineError."""
        self._close()
        async with self._turn:
            self.policy = None
            await self._maker.obey(Order(self.name, NO_RULES + slot_rules(self._denied), forget=True))
            self.policy = OPEN
        self._open()

    def let_go(self) -> None:
        """The machine has the tap now; nobody else needs it."""
        self._close()

    async def end(self) -> None:
        """Remove all of it; fine when there is nothing."""
        self._close()
        await remove([self.number])

    def _open(self) -> None:
        with namespace.inside(self.name):
            self.tap = namespace.lasting_tap(TAP)

    def _close(self) -> None:
        if self.tap >= 0:
            os.close(self.tap)
            self.tap = -1

    def _ways(self) -> Ways:
        return Ways(
            host=self.name,
            outer=str(self.addresses.host),
            uplink=UPLINK,
            inner=str(self.addresses.inner),
            tap=TAP,
            tap_mac=GATEWAY_MAC,
            tap_addresses=(str(GATEWAY), str(RESOLVER)),
            guest=str(GUEST.ip),
            guest_mac=GUEST_MAC,
        )


async def remove(numbers: Sequence[int]) -> dict[int, str]:
    """Remove the namespaces of slots, and with them their devices; fine when there are none. Of those that
    cannot be removed it is told why. BuildFailed.

    The host's ends first: with a namespace they go some time later.
    """
    names = [name_of(number) for number in numbers]
    for _ in range(TRIES):  # one may go by itself meanwhile, with its other end
        there = [name for name in names if _is_there(name)]
        if not there:
            break
        with suppress(BuildFailed):
            await _batch([f"link del {name}" for name in there], "-force")
    kept = {}
    for number, name in zip(numbers, names, strict=True):
        try:
            namespace.remove(name)
        except MachineError as error:
            kept[number] = error.message
    return kept


def _is_there(device: str) -> bool:
    try:
        return socket.if_nametoindex(device) > 0
    except OSError:
        return False


async def _batch(lines: Sequence[str], *options: str) -> None:
    text = "\n".join(lines) + "\n"
    await run_tool(["ip", *options, "-batch", "-"], timeout=SECONDS, settings=PLACES, stdin=text)
