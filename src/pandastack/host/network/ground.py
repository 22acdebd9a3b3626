"""What the host's own network needs so that machines can have theirs: a range of addresses, a table of rules,
and that it passes their packets on.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from pandastack.host.network.ability import PLACES
from pandastack.host.network.addresses import choose_pool, forbidden
from pandastack.host.network.namespace import forwards, set_forwarding, share_folder
from pandastack.host.network.rules import PREFIX, TABLE, host_rules
from pandastack.host.publish import locked
from pandastack.host.record import note, read_record
from pandastack.host.tool import run_tool

SECONDS = 10.0
FOLDER = Path("/run/pandastack")
LOCK = "network"


class Route(Struct, frozen=True):
    """A line of `ip -j route`."""

    dst: str
    dev: str = ""
    scope: str = ""


class Address(Struct, frozen=True):
    """One of a device's."""

    family: str
    local: str = ""
    prefixlen: int = 32


class Device(Struct, frozen=True):
    """A device of `ip -j addr`."""

    ifname: str
    addr_info: list[Address] = []


class Ground(Struct, frozen=True):
    """What was done to the host's network, and for whom. Of one life of the host's kernel."""

    pool: str
    boot_id: str
    opened: tuple[str, ...]
    """Devices that did not pass packets on before."""
    users: tuple[str, ...]
    """The state directories of the servers that need it."""


async def prepare(user: Path, wanted: IPv4Network | None) -> tuple[IPv4Network, tuple[IPv4Network, ...]]:
    """The range of the slots, and all that no guest may reach. Twice is fine; servers of one machine share
    the range of the first. NoCapacity, BuildFailed, MachineError.
    """
    async with locked(FOLDER / LOCK):
        share_folder()
        routes = [route for route in await _routes() if not route.dev.startswith(PREFIX)]
        known = _known()
        pool = IPv4Network(known.pool) if known else choose_pool(wanted, map(_network, routes))
        denied = forbidden(_own(await _devices()))
        opened = (*(known.opened if known else ()), *_closed(routes))
        users = {*(known.users if known else ()), str(user)}
        note(_record(), Ground(str(pool), _boot_id(), opened, tuple(sorted(users))))
        await _nft(host_rules(pool, denied, routes=not opened))
        for device in opened:
            set_forwarding(device, on=True)
    return pool, denied


async def leave(user: Path) -> None:
    """This server needs it no more; with the last one all that `prepare` did is taken back."""
    async with locked(FOLDER / LOCK):
        known = _known()
        if known is None:
            return
        users = tuple(name for name in known.users if name != str(user) and Path(name).is_dir())
        if users:
            note(_record(), structs.replace(known, users=users))
            return
        await _nft(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
        for device in known.opened:
            set_forwarding(device, on=False)
        _record().unlink(missing_ok=True)


def _record() -> Path:
    """One for each network namespace that is somebody's host."""
    return FOLDER / f"network-{Path('/proc/thread-self/ns/net').stat().st_ino}.json"


def _known() -> Ground | None:
    ground = read_record(_record(), Ground)
    return ground if ground and ground.boot_id == _boot_id() else None


def _closed(routes: Iterable[Route]) -> tuple[str, ...]:
    """The devices by which packets leave this host that do not pass on what comes in by them."""
    ways = {route.dev for route in routes if route.dst == "default" and route.dev}
    return tuple(sorted(device for device in ways if not forwards(device)))


def _own(devices: Iterable[Device]) -> Iterable[IPv4Network]:
    """The networks that this host is connected to."""
    for device in devices:
        if device.ifname.startswith(PREFIX):
            continue
        for address in device.addr_info:
            if address.family == "inet":
                yield IPv4Interface(f"{address.local}/{address.prefixlen}").network


def _network(route: Route) -> IPv4Network:
    return IPv4Network("0.0.0.0/0" if route.dst == "default" else route.dst, strict=False)


async def _routes() -> list[Route]:
    text = await run_tool(
        ["ip", "-4", "-j", "route", "show", "table", "main"], timeout=SECONDS, settings=PLACES
    )
    return msgspec.json.decode(text or "[]", type=list[Route])


async def _devices() -> list[Device]:
    text = await run_tool(["ip", "-4", "-j", "addr"], timeout=SECONDS, settings=PLACES)
    return msgspec.json.decode(text or "[]", type=list[Device])


async def _nft(text: str) -> None:
    await run_tool(["nft", "-f", "-"], timeout=SECONDS, settings=PLACES, stdin=text)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
