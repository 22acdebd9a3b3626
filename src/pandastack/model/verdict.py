"""What a policy says of a destination: pure functions, the same for the host, the proxy and the resolver."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from pandastack.model.egress import ENTRIES, MAIL_PORTS, BoundSecret, Egress, Internet, Receipt, port_range
from pandastack.model.hostname import matches

ALWAYS_DENIED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
)
"""Networks that nobody may reach, whatever is allowed; and all of IPv6."""

UNLISTED = "no allow list names it"
FREE = "default"
COLLAPSE_FROM = 6
"""So many names below one parent become a wildcard in a suggestion."""
SUGGESTED_PORTS = 50

Network = tuple[int, int, str]
"""First address, mask, and how a person writes it."""


class Verdict(Struct, frozen=True):
    """Whether it is allowed, and by which rule."""

    allowed: bool
    rule: str


class Policy(Struct, frozen=True):
    """A policy, ready to decide with. Make it by `policy_of`."""

    egress: Egress
    secret_hosts: tuple[str, ...]
    never: tuple[Network, ...]
    reachable: tuple[Network, ...]
    allowed: tuple[Network, ...]
    denied: tuple[Network, ...]
    ports: tuple[tuple[int, int], ...]

    @property
    def by_name(self) -> bool:
        """Whether names or secrets decide: every TCP connection goes through the proxy then, QUIC nowhere."""
        return self.egress.names_decide or bool(self.secret_hosts)


def policy_of(
    egress: Egress,
    secrets: Iterable[BoundSecret] = (),
    *,
    own: Iterable[str] = (),
    reachable: Iterable[str] = (),
) -> Policy:
    """Read a policy once, to decide with it often.

    `own` are the host's own addresses and the networks it stands in, denied as `ALWAYS_DENIED` is;
    `reachable` are exceptions from both, which only an operator makes: the addresses of a proxy of theirs.
    """
    return Policy(
        egress=egress,
        secret_hosts=tuple(host for secret in secrets for host in secret.hosts),
        never=(*_networks("always denied", ALWAYS_DENIED), *_networks("the host's own network", own)),
        reachable=_networks("", reachable),
        allowed=_networks("allow_cidrs", egress.allow_cidrs),
        denied=_networks("deny_cidrs", egress.deny_cidrs),
        ports=tuple(port_range(entry) for entry in egress.ports),
    )


def decide_name(policy: Policy, name: str, port: int) -> Verdict:
    """Whether a connection that tells this canonical name may be made, as far as its name goes: every address
    that it resolves to is then asked about by `decide_resolved`.
    """
    return _gate(policy, port) or name_allowed(policy, name)


def name_allowed(policy: Policy, name: str) -> Verdict:
    """Whether anything may be done with this canonical name, resolving it included."""
    egress = policy.egress
    if egress.internet is Internet.OFF:
        return Verdict(allowed=False, rule="internet: off")
    for pattern in egress.deny_domains:
        if matches(pattern, name):
            return Verdict(allowed=False, rule=f"deny_domains: {pattern}")
    for pattern in egress.allow_domains:
        if matches(pattern, name):
            return Verdict(allowed=True, rule=f"allow_domains: {pattern}")
    return Verdict(allowed=False, rule=UNLISTED) if egress.restricted else Verdict(allowed=True, rule=FREE)


def decide_address(policy: Policy, address: str, port: int) -> Verdict:
    """Whether a connection that tells no name may be made to this address."""
    refused = _gate(policy, port) or decide_resolved(policy, address)
    if refused is not None:
        return refused
    found = _holding(policy.allowed, _number(address))
    if found:
        return Verdict(allowed=True, rule=found)
    restricted = policy.egress.restricted
    return Verdict(allowed=not restricted, rule=UNLISTED if restricted else FREE)


def decide_resolved(policy: Policy, address: str) -> Verdict | None:
    """What forbids an address that an allowed name resolved to; None when nothing does."""
    number = _number(address)
    if number is None:
        return Verdict(allowed=False, rule="always denied: IPv6")
    own = None if _holding(policy.reachable, number) is not None else _holding(policy.never, number)
    found = own or _holding(policy.denied, number)
    return Verdict(allowed=False, rule=found) if found else None


def is_bound(policy: Policy, name: str) -> bool:
    """Whether a secret is bound to this canonical name."""
    return any(matches(pattern, name) for pattern in policy.secret_hosts)


def would_block(policy: Policy, receipts: Iterable[Receipt]) -> list[Receipt]:
    """Which of the flows that were allowed this policy would forbid, each with the rule that would."""
    blocked = []
    for receipt in receipts:
        verdict = _again(policy, receipt)
        if receipt.allowed and not verdict.allowed:
            blocked.append(replace(receipt, allowed=False, rule=verdict.rule))
    return blocked


def suggest(receipts: Sequence[Receipt]) -> Egress:
    """A policy that allows what was used and nothing else: names where they are known, addresses elsewhere.

    Many names below one parent become a wildcard, many ports become all, and of more destinations than a
    policy holds those used most are taken. Without receipts of allowed flows it is `internet: off`.
    """
    used = sorted((each for each in receipts if each.allowed), key=lambda each: -each.connections)
    if not used:
        return Egress(internet=Internet.OFF)
    flows = [receipt for receipt in used if receipt.address is not None]
    ports = tuple(sorted({receipt.port for receipt in flows}))
    ports = ports if len(ports) <= SUGGESTED_PORTS else ()
    names = _collapsed(list(dict.fromkeys(receipt.name for receipt in used if receipt.name)))
    names = names[: ENTRIES - len(ports)]
    addresses = list(dict.fromkeys(f"{receipt.address}/32" for receipt in flows if not receipt.name))
    addresses = addresses[: ENTRIES - len(ports) - len(names)]
    return Egress(allow_domains=tuple(sorted(names)), allow_cidrs=tuple(sorted(addresses)), ports=ports)


def _gate(policy: Policy, port: int) -> Verdict | None:
    """What forbids a connection wherever it goes."""
    if policy.egress.internet is Internet.OFF:
        return Verdict(allowed=False, rule="internet: off")
    if policy.ports:
        named = any(first <= port <= last for first, last in policy.ports)
        return None if named else Verdict(allowed=False, rule=f"ports: {port} is not among them")
    return Verdict(allowed=False, rule=f"ports: {port} is for mail") if port in MAIL_PORTS else None


def _again(policy: Policy, receipt: Receipt) -> Verdict:
    if receipt.protocol == "dns":
        return name_allowed(policy, receipt.name or "")
    address = receipt.address or ""
    if receipt.name is None:
        return decide_address(policy, address, receipt.port)
    verdict = decide_name(policy, receipt.name, receipt.port)
    if verdict.rule == UNLISTED:
        return decide_address(policy, address, receipt.port)
    return (decide_resolved(policy, address) or verdict) if verdict.allowed else verdict


def _networks(what: str, texts: Iterable[str]) -> tuple[Network, ...]:
    parsed = [(ipaddress.ip_network(text, strict=False), text) for text in texts]
    return tuple(
        (int(net.network_address), int(net.netmask), f"{what}: {text}")
        for net, text in parsed
        if net.version == 4
    )


def _holding(networks: tuple[Network, ...], number: int | None) -> str | None:
    if number is None:
        return None
    return next((rule for first, mask, rule in networks if number & mask == first), None)


def _number(address: str) -> int | None:
    try:
        return int(ipaddress.IPv4Address(address))
    except ValueError:
        return None


def _collapsed(names: list[str]) -> list[str]:
    below: dict[str, list[str]] = {}
    for name in names:
        below.setdefault(_parent(name), []).append(name)
    chosen: list[str] = []
    for parent, members in below.items():
        itself = [parent] if parent in members else []
        many = len(members) - len(itself) >= COLLAPSE_FROM
        chosen += [f"*.{parent}", *itself] if many else members
    return chosen


def _parent(name: str) -> str:
    """What was probably registered: two labels, or three below such as `co.uk`."""
    labels = name.split(".")
    short = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3:] if short else labels[-2:])
