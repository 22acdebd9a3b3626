"""Where one connection may go: decided before anything is dialled, and again when the policy changes."""

from __future__ import annotations

from msgspec import Struct

from pandastack.host.egress.opening import TLS, Opening
from pandastack.host.egress.upstream import NoAnswer, Upstream
from pandastack.model.egress import BoundSecret
from pandastack.model.hostname import matches
from pandastack.model.verdict import (
    UNLISTED,
    Policy,
    Verdict,
    decide_address,
    decide_name,
    decide_resolved,
    is_bound,
)


class Denied(Exception):
    """The policy forbids it, by this rule."""

    def __init__(self, rule: str, address: str | None = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.address = address
        """The address that the rule is about, when it is not where the guest meant to connect."""


class Nowhere(Exception):
    """The name has no address, or nobody tells it; the message is a sentence."""


class Route(Struct, frozen=True):
    """Where to: one of `addresses`, all of them checked. `resolved` when they are those of `name`, else it is
    where the guest meant to connect.
    """

    name: str | None
    addresses: tuple[str, ...]
    port: int
    resolved: bool
    rule: str


def told_name(opening: Opening, policy: Policy) -> str | None:
    """The name that decides. A hidden hello within makes the outer name worthless, unless TLS ends here."""
    if opening.encrypted and not (opening.name and is_bound(policy, opening.name)):
        return None
    return opening.name


async def find_route(
    opening: Opening, original: tuple[str, int], policy: Policy, upstream: Upstream
) -> Route:
    """Where this connection may go. Denied, Nowhere.

    A name that no list allows is not resolved: a question would carry it out. It may still go to where the
    guest meant to connect if the owner has allowed that address.
    """
    address, port = original
    name = told_name(opening, policy)
    if name is not None:
        verdict = decide_name(policy, name, port)
        if verdict.allowed:
            return await _resolved(name, port, verdict, policy, upstream)
        if verdict.rule != UNLISTED:
            raise Denied(verdict.rule)
    verdict = decide_address(policy, address, port)
    if not verdict.allowed:
        raise Denied(verdict.rule)
    return Route(name, (address,), port, resolved=False, rule=verdict.rule)


def still_allowed(route: Route, address: str, policy: Policy) -> bool:
    """Whether an open connection to `address` may stay under another policy."""
    verdict = decide_name(policy, route.name, route.port) if route.name else None
    if route.resolved and verdict is not None:
        return verdict.allowed and decide_resolved(policy, address) is None
    if verdict is not None and not verdict.allowed and verdict.rule != UNLISTED:
        return False
    return decide_address(policy, address, route.port).allowed


def secrets_for(route: Route, opening: Opening, secrets: tuple[BoundSecret, ...]) -> tuple[BoundSecret, ...]:
    """The secrets that requests of this connection may carry: over TLS, to the name that was told."""
    if opening.protocol != TLS or route.name is None:
        return ()
    name = route.name
    return tuple(secret for secret in secrets if any(matches(host, name) for host in secret.hosts))


async def _resolved(name: str, port: int, verdict: Verdict, policy: Policy, upstream: Upstream) -> Route:
    try:
        addresses, _ = await upstream.addresses(name)
    except NoAnswer as error:
        raise Nowhere(f"The name {name} cannot be resolved now: {error}.") from error
    if not addresses:
        raise Nowhere(f"The name {name} has no address of IPv4.")
    for address in addresses:
        refused = decide_resolved(policy, address)
        if refused is not None:
            raise Denied(refused.rule, address)
    return Route(name, tuple(addresses), port, resolved=True, rule=verdict.rule)
