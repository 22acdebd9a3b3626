"""Which addresses there are: those that every guest sees, those of each slot, and those nobody may reach."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from msgspec import Struct

from pandastack.errors import NoCapacity
from pandastack.host.link import GuestNetwork

GUEST = IPv4Interface("10.0.2.15/24")
GATEWAY = IPv4Interface("10.0.2.2/24")
RESOLVER = IPv4Interface("10.0.2.3/32")
GUEST_MAC = "52:54:00:70:64:73"
GATEWAY_MAC = "52:54:00:70:64:01"
"""The same in every namespace: a restored guest remembers whom it spoke with."""

GUEST_NETWORK = GuestNetwork(address=str(GUEST), gateway=str(GATEWAY.ip), dns=str(RESOLVER.ip), mac=GUEST_MAC)

RANGE_BITS = 16
"""A range of so many bits holds 16,384 slots of four addresses."""
SLOT_BITS = 30

FORBIDDEN = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network, RFC 1122
            "10.0.0.0/8",  # private, RFC 1918
            "100.64.0.0/10",  # shared by carriers, RFC 6598
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, and the metadata services of clouds, RFC 3927
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments, RFC 6890
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks, RFC 2544
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and the broadcast address
        ),
    )
)
"""What no guest ever reaches, whatever its owner allows."""

CANDIDATES = tuple(
    IPv4Network(text)
    for text in (
        *(f"10.{second}.0.0/{RANGE_BITS}" for second in range(200, 250)),
        *(f"172.{second}.0.0/{RANGE_BITS}" for second in range(20, 32)),
        *(f"100.{second}.0.0/{RANGE_BITS}" for second in range(64, 128)),
    )
)


class SlotAddresses(Struct, frozen=True):
    """The two ends of the way from a slot's namespace to the host."""

    host: IPv4Interface
    inner: IPv4Interface


def addresses_of(number: int, pool: IPv4Network) -> SlotAddresses:
    """Those of slot `number`, the fourth part of a network of four. ValueError beyond the pool."""
    if not 0 <= number < slots_in(pool):
        raise ValueError(f"{pool} has no slot {number}")
    first = int(pool.network_address) + number * 4
    host, inner = (IPv4Interface((first + offset, SLOT_BITS)) for offset in (1, 2))
    return SlotAddresses(host, inner)


def slots_in(pool: IPv4Network) -> int:
    """How many slots a pool has."""
    return int(pool.num_addresses // 4)


def choose_pool(wanted: IPv4Network | None, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The wanted range, or else the first that is on no route of this host. NoCapacity when there is none."""
    known = [network for network in taken if network.prefixlen > 0]
    for pool in [wanted] if wanted else CANDIDATES:
        if not any(pool.overlaps(network) for network in known):
            return pool
    what = f"The range {wanted} of the machines' networks is" if wanted else "All ranges that it tries are"
    raise NoCapacity(f"{what} on a route of this host: set host.network_range to a /16 that nobody uses.")


def forbidden(of_host: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """FORBIDDEN, and what this host has by itself: its addresses, and the networks it is connected to."""
    return (*FORBIDDEN, *of_host)


def is_forbidden(address: IPv4Address, networks: Iterable[IPv4Network]) -> bool:
    """Whether an address lies in one of the networks."""
    return any(address in network for network in networks)
