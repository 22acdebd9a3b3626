"""What the kernel has counted of a slot's packets, as receipts."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from pandastack.model.egress import Egress, Receipt
from pandastack.model.verdict import decide_address, policy_of

PLACES = ("sent", "got", "refused")
"""The sets of `rules.slot_rules` that count."""

PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
"""Those that are counted."""

EARLIER = "an earlier policy"
"""The rule of what the policy of now would decide otherwise."""

Place = tuple[str, str, int]
"""Protocol, address, port."""


class Count(Struct, frozen=True):
    """Of one place."""

    packets: int = 0
    size: int = 0


def parse(text: str) -> dict[str, dict[Place, Count]]:
    """The counting sets of `nft -j --numeric-protocol list sets`, by name."""
    found: dict[str, dict[Place, Count]] = {name: {} for name in PLACES}
    for entry in msgspec.json.decode(text)["nftables"]:
        held = entry.get("set")
        if held and held["name"] in found:
            found[held["name"]] = dict(map(_counted, held.get("elem", ())))
    return found


def receipts_of(
    counts: Mapping[str, Mapping[Place, Count]],
    egress: Egress,
    names: Mapping[str, str],
    since: datetime,
    now: datetime,
) -> list[Receipt]:
    """A receipt a place: the packets that were let through, and the connections that were refused."""
    policy = policy_of(egress)
    none = Count()

    def receipt(place: Place, out: Count, back: Count, *, allowed: bool) -> Receipt:
        protocol, address, port = place
        verdict = decide_address(policy, address, port)
        return Receipt(
            protocol,
            names.get(address),
            address,
            port,
            verdict.rule if verdict.allowed is allowed else EARLIER,
            allowed,
            since,
            now,
            out.size,
            back.size,
            0 if allowed else out.packets,
        )

    sent, got, refused = (counts[name].items() for name in PLACES)
    back = dict(got)
    passed = [receipt(place, out, back.get(place, none), allowed=True) for place, out in sent]
    return _ordered([*passed, *(receipt(place, out, none, allowed=False) for place, out in refused)])


def _ordered(receipts: Iterable[Receipt]) -> list[Receipt]:
    return sorted(receipts, key=lambda each: (not each.allowed, each.protocol, each.address or "", each.port))


def _counted(element: Any) -> tuple[Place, Count]:  # noqa: ANN401  # nft's JSON, read once and typed from here on
    held = element["elem"]
    address, protocol, port = held["val"]["concat"]
    place = (PROTOCOLS[protocol], address, int(port))
    return place, Count(held["counter"]["packets"], held["counter"]["bytes"])
