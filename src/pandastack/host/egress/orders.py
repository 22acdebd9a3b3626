"""What the host and the egress process say to each other."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from pandastack.model.egress import BoundSecret, Egress, Receipt


class Authority(Struct, frozen=True):
    """The certificate authority of this host, PEM. Its key never leaves the two processes."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        """Without the key."""
        return "Authority()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for tracebacks on a terminal."""
        return [("certificate", self.certificate)]


class Limits(Struct, frozen=True):
    """Deadlines in seconds, and what one sandbox may ask for."""

    head: float = 5.0
    server_first: float = 0.3
    connect: float = 10.0
    idle: float = 900.0
    upstream_dns: float = 3.0
    questions_per_second: float = 200.0
    receipts: int = 500


class Begin(Struct, frozen=True, tag="begin"):
    """The first order. `name_servers` are `address` or `address:port`; `trust` is a PEM bundle, the system's
    when None. `own` and `reachable` are networks as `policy_of` takes them.
    """

    name_servers: tuple[str, ...]
    own: tuple[str, ...] = ()
    reachable: tuple[str, ...] = ()
    authority: Authority | None = None
    trust: str | None = None
    limits: Limits = Limits()


class Attach(Struct, frozen=True, tag="attach"):
    """Serve a slot. With it come three descriptors, bound in the slot's namespace: a UDP socket and a TCP
    listener for questions to the resolver, and the TCP listener of the proxy. Again: changes it, and the new
    descriptors take the place of the old ones.
    """

    slot: int
    vm: str
    egress: Egress
    secrets: tuple[BoundSecret, ...] = ()


class Change(Struct, frozen=True, tag="change"):
    """Another policy from now on; open connections that it forbids are closed before the answer."""

    slot: int
    egress: Egress
    secrets: tuple[BoundSecret, ...] = ()


class Detach(Struct, frozen=True, tag="detach"):
    """Close everything of a slot. One that is not attached is fine."""

    slot: int


class Report(Struct, frozen=True, tag="receipts"):
    """Ask for the receipts of a slot."""

    slot: int


Order = Begin | Attach | Change | Detach | Report


class Receipts(Struct, frozen=True):
    """What one slot did since it was attached, and which name each address was resolved from last."""

    vm: str
    receipts: tuple[Receipt, ...]
    names: dict[str, str]


class Envelope(Struct, frozen=True):
    """An order on its way: its number, and how many descriptors come with it."""

    id: int
    descriptors: int
    order: Order


class Answer(Struct, frozen=True):
    """The answer to the order of this number: `error` is a sentence when it was not carried out."""

    id: int
    error: str = ""
    receipts: Receipts | None = None
