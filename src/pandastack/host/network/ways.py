"""The ways of a slot: from its tap to the host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

from msgspec import Struct

from pandastack.host.network import namespace, netlink


class Ways(Struct, frozen=True):
    """What a namespace needs that has a tap and nothing else. Addresses are IPv4, in CIDR notation."""

    host: str
    """The device of the host, with the address `outer`."""
    outer: str
    uplink: str
    """The device of the namespace at the other end, with the address `inner`."""
    inner: str
    tap: str
    tap_mac: str
    tap_addresses: tuple[str, ...]
    guest: str
    """The address at the tap's other end, known by `guest_mac` for good."""
    guest_mac: str

    def lay(self, space: str) -> None:
        """Make them within the namespace, from where this thread is, which is the host's. MachineError.

        Nothing comes in or goes out by them until they are opened.
        """
        outer, inner = IPv4Interface(self.outer), IPv4Interface(self.inner)
        with namespace.own() as host, namespace.inside(space):
            netlink.tell([netlink.pair(self.uplink, self.host, host)])
            netlink.tell(
                [
                    netlink.up("lo"),
                    netlink.address(self.uplink, inner),
                    netlink.up(self.uplink),
                    netlink.default_route(outer.ip),
                    netlink.up(self.tap, self.tap_mac),
                    *(netlink.address(self.tap, IPv4Interface(each)) for each in self.tap_addresses),
                    netlink.neighbour(self.tap, IPv4Address(self.guest), self.guest_mac),
                ]
            )

    def open(self) -> None:
        """The host's end, where this thread is: from now on packets pass. MachineError."""
        netlink.tell([netlink.address(self.host, IPv4Interface(self.outer)), netlink.up(self.host)])
        namespace.set_forwarding(self.host, on=True)
