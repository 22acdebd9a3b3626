"""Devices, addresses and routes of the namespace that this thread is in, by rtnetlink(7).

The words of `ip`, without its start. Whatever is told in one breath is done in this order, before `tell`
returns; what fails does not keep the rest from being done.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from msgspec import Struct

from pandastack.errors import MachineError

_NEWLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 20, 24, 28
_ERROR = 2
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_NEW = _CREATE | _EXCL

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_GATEWAY = 5
_NDA_DST, _NDA_LLADDR = 1, 2

_IFF_UP = 1
_TABLE_MAIN, _PROTOCOL_BOOT, _TYPE_UNICAST = 254, 3, 1
_NUD_PERMANENT = 0x80

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Wish(Struct, frozen=True):
    """What is told: in words, its kind, flags and body."""

    words: str
    kind: int
    flags: int
    body: bytes


def pair(device: str, peer: str, place: int) -> Wish:
    """A new pair of devices; the other end lies in the namespace with this descriptor."""
    other = _link(0) + _named(peer) + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", place))
    kind = _attribute(_IFLA_INFO_KIND, b"veth")
    data = _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
    body = _link(0) + _named(device) + _attribute(_IFLA_LINKINFO, kind + data)
    return Wish(f"the pair of {device} and {peer}", _NEWLINK, _NEW, body)


def up(device: str, mac: str | None = None) -> Wish:
    """A device that is there goes up, with another address of its own if that is wanted. MachineError."""
    own = b"" if mac is None else _attribute(_IFLA_ADDRESS, _mac(mac))
    return Wish(f"{device} up", _NEWLINK, 0, _link(_index(device), _IFF_UP) + own)


def address(device: str, added: IPv4Interface) -> Wish:
    """A device that is there gets an address more. MachineError."""
    head = struct.pack("=BBBBI", socket.AF_INET, added.network.prefixlen, 0, 0, _index(device))
    both = _attribute(_IFA_LOCAL, added.packed) + _attribute(_IFA_ADDRESS, added.packed)
    return Wish(f"the address {added} of {device}", _NEWADDR, _NEW, head + both)


def default_route(gateway: IPv4Address) -> Wish:
    """Packets go that way which know no other."""
    kind = (_TABLE_MAIN, _PROTOCOL_BOOT, 0, _TYPE_UNICAST)
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, *kind, 0)
    body = head + _attribute(_RTA_GATEWAY, gateway.packed)
    return Wish(f"the route by {gateway}", _NEWROUTE, _NEW, body)


def neighbour(device: str, there: IPv4Address, mac: str) -> Wish:
    """Who has an address is known for good. MachineError when there is no such device."""
    head = struct.pack("=BxHiHBB", socket.AF_INET, 0, _index(device), _NUD_PERMANENT, 0, 0)
    body = head + _attribute(_NDA_DST, there.packed) + _attribute(_NDA_LLADDR, _mac(mac))
    return Wish(f"the neighbour {there}", _NEWNEIGH, _NEW, body)


def tell(wishes: Sequence[Wish]) -> None:
    """Have them all done. MachineError about the first that is refused."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asked:
            asked.send(b"".join(_message(number, wish) for number, wish in enumerate(wishes)))
            answers = [asked.recv(4096, socket.MSG_DONTWAIT) for _ in wishes]  # they are there: it is done
    except OSError as error:
        raise MachineError(f"networks cannot be changed: {error.strerror}") from error
    for answer in answers:
        _, kind, _, number, _ = _HEADER.unpack_from(answer)
        (status,) = struct.unpack_from("=i", answer, _HEADER.size)
        if kind != _ERROR or status:
            raise MachineError(f"{wishes[number].words} is refused: {os.strerror(-status)}")


def _message(number: int, wish: Wish) -> bytes:
    flags = _REQUEST | _ACK | wish.flags
    return _HEADER.pack(_HEADER.size + len(wish.body), wish.kind, flags, number, 0) + wish.body


def _link(index: int, flags: int = 0) -> bytes:
    """A `struct ifinfomsg`; these flags are set, the others stay."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _attribute(kind: int, data: bytes) -> bytes:
    """Aligned to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _named(device: str) -> bytes:
    return _attribute(_IFLA_IFNAME, device.encode() + b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError as error:
        raise MachineError(f"there is no device {device}") from error
