"""What a sandbox may reach: a policy as its owner writes it, and the secrets that are put in on the way out.

Decisions are in `model/verdict.py`; nothing here does I/O.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from pandastack.errors import InvalidRequest
from pandastack.model.hostname import canonical_name

ENTRIES = 500
"""Most entries of a policy, all its lists together."""

CONNECTIONS = 2500
"""Most connections of a sandbox at a time."""

MAIL_PORTS = frozenset({25, 465, 587})
"""Used only when `ports` names them."""

PLACEHOLDER_LENGTH = 16
SECRET_LENGTH = 8192
HOSTS = 32
"""Most hosts that a secret is bound to, and most headers."""

_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_VISIBLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

Limit = Annotated[int, Meta(ge=1, le=CONNECTIONS)]
Megabits = Annotated[float, Meta(gt=0, le=1_000_000)]


class Internet(StrEnum):
    """Whether a sandbox has a network to the outside at all."""

    ON = "on"
    OFF = "off"


class Egress(Struct, frozen=True, forbid_unknown_fields=True):
    """What a sandbox may reach, field `egress` of its body.

    `internet: off` is nothing at all, and no resolver. With any allow list everything that no allow list
    names is denied; a deny list wins over an allow list. Networks that nobody may reach (`ALWAYS_DENIED`, the
    host's own) stay denied whatever is allowed.

    `allow_domains` and `deny_domains` hold names, `*.example.com` for every name below `example.com` (not
    itself), and `*`. Names hold for connections that tell theirs (TLS, HTTP): these go where *we* resolve the
    name to. A connection that tells no name is decided by its address, and so is one whose name no list has
    when `allow_cidrs` has the address it goes to. A deny list of names therefore stops who tells the name;
    whoever must be certain writes an allow list.

    `ports` holds numbers and ranges; without it every port may be used but those of mail (25, 465, 587).
    `bandwidth_mbps` counts both directions and all ways together: what goes on directly, through the process
    that knows names, and to the resolver; what it lets through in 1.25 seconds may come at once.
    `max_connections` counts TCP and UDP together, whichever way they go. Names are kept in their canonical
    spelling. InvalidRequest when an entry cannot be understood.
    """

    internet: Internet = Internet.ON
    allow_cidrs: tuple[str, ...] = ()
    deny_cidrs: tuple[str, ...] = ()
    allow_domains: tuple[str, ...] = ()
    deny_domains: tuple[str, ...] = ()
    ports: tuple[int | str, ...] = ()
    bandwidth_mbps: Megabits | None = None
    max_connections: Limit = CONNECTIONS

    def __post_init__(self) -> None:
        """Refuse what cannot be understood, and spell names in the canonical way."""
        lists = (self.allow_cidrs, self.deny_cidrs, self.allow_domains, self.deny_domains, self.ports)
        if sum(map(len, lists)) > ENTRIES:
            raise InvalidRequest(f"An egress policy has at most {ENTRIES} entries in all its lists.")
        for network in (*self.allow_cidrs, *self.deny_cidrs):
            _check_cidr(network)
        for entry in self.ports:
            port_range(entry)
        for field in ("allow_domains", "deny_domains"):
            patterns = tuple(canonical_pattern(entry) for entry in getattr(self, field))
            force_setattr(self, field, patterns)
        if not 1 <= self.max_connections <= CONNECTIONS:
            raise InvalidRequest(f"max_connections is 1 to {CONNECTIONS}.")
        if self.bandwidth_mbps is not None and not 0 < self.bandwidth_mbps <= 1_000_000:
            raise InvalidRequest("bandwidth_mbps is more than 0 and at most 1000000.")

    @property
    def restricted(self) -> bool:
        """Whether an allow list is given, so that everything else is denied."""
        return bool(self.allow_cidrs or self.allow_domains)

    @property
    def names_decide(self) -> bool:
        """Whether a list of names is given, so that addresses alone cannot tell what is allowed."""
        return bool(self.allow_domains or self.deny_domains)


class BoundSecret(Struct, frozen=True, forbid_unknown_fields=True):
    """A secret that the guest never has: it writes `placeholder`, and requests over TLS to `hosts` (patterns
    as in a policy) carry `value` instead, in whichever header the placeholder stands, or only in `headers`
    when there are some.

    `Basic` credentials are looked into. A binding allows nothing by itself. Bodies of requests are passed as
    they are. In what is answered stars stand for the value; a host that repeats it in another form tells it
    to the guest all the same.
    """

    name: str
    hosts: tuple[str, ...]
    placeholder: str
    value: str
    headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could be taken for something else on the wire. No message holds the value."""
        if not self.name or not self.hosts:
            raise InvalidRequest("A secret has a name and at least one host that it is bound to.")
        force_setattr(self, "hosts", tuple(canonical_pattern(host) for host in self.hosts))
        if "*" in self.hosts or len(self.hosts) > HOSTS:
            raise InvalidRequest(
                f"Secret {self.name!r} is bound to hosts by their names, {HOSTS} at most, not to all of them."
            )
        if len(self.headers) > HOSTS or not all(_TOKEN.fullmatch(header) for header in self.headers):
            raise InvalidRequest(
                f"The headers of secret {self.name!r} are names of headers, {HOSTS} at most."
            )
        force_setattr(self, "headers", tuple(header.lower() for header in self.headers))
        if len(self.placeholder) < PLACEHOLDER_LENGTH or not _TOKEN.fullmatch(self.placeholder):
            raise InvalidRequest(
                f"The placeholder of secret {self.name!r} needs {PLACEHOLDER_LENGTH} to 64 letters, digits "
                "or dashes, so that nothing else is taken for it."
            )
        if len(self.value) > SECRET_LENGTH or not _VISIBLE.fullmatch(self.value):
            raise InvalidRequest(
                f"The value of secret {self.name!r} must be one line of visible ASCII of at most "
                f"{SECRET_LENGTH} characters: it is sent in a header."
            )

    def __repr__(self) -> str:
        """Without the value, so that no log can have it."""
        return f"BoundSecret(name={self.name!r}, hosts={self.hosts!r}, headers={self.headers!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for tracebacks on a terminal."""
        return [("name", self.name), ("hosts", self.hosts), ("headers", self.headers)]

    def put_into(self, header: str, header_value: str) -> str:
        """The same value of a header, the placeholder replaced, also within `Basic` credentials."""
        return put_all_into((self,), header, header_value)


def put_all_into(secrets: Iterable[BoundSecret], header: str, header_value: str) -> str:
    """The same value of a header, all placeholders replaced at once, also within `Basic` credentials. What
    was put in is not looked at again: values that hold placeholders of others would grow without end.
    """
    name = header.lower()
    values = {each.placeholder: each.value for each in secrets if not each.headers or name in each.headers}
    if not values:
        return header_value
    longest_first = sorted(values, key=len, reverse=True)
    placeholders = re.compile("|".join(map(re.escape, longest_first)))
    scheme, _, credentials = header_value.partition(" ")
    if scheme.lower() == "basic":
        plain = _decoded(credentials.strip())
        if plain is not None and placeholders.search(plain):
            filled = placeholders.sub(lambda found: values[found[0]], plain)
            return f"{scheme} {base64.b64encode(filled.encode('latin-1')).decode()}"
    return placeholders.sub(lambda found: values[found[0]], header_value)


class Receipt(Struct, frozen=True, omit_defaults=True):
    """What went to one destination, or was kept from it, under one rule.

    `protocol` is `tls`, `http`, `tcp`, `udp` or `dns`; `address` is None for a question to the resolver.
    Bytes are those of the guest's own connections: out is what it sent, with values in the place of
    placeholders. `connections` counts them, or the questions.
    """

    protocol: str
    name: str | None
    address: str | None
    port: int
    rule: str
    allowed: bool
    first_at: datetime
    last_at: datetime
    bytes_out: int = 0
    bytes_in: int = 0
    connections: int = 0


def canonical_pattern(text: str) -> str:
    """A name or wildcard in its canonical spelling. InvalidRequest when it is neither."""
    stars = "*." if text.startswith("*.") else ""
    name = "*" if text == "*" else canonical_name(text[len(stars) :])
    if name is None:
        raise InvalidRequest(
            f"{text!r} is no name of a host. Write names such as example.com, *.example.com for all below "
            "it, or *; addresses belong into allow_cidrs and deny_cidrs."
        )
    return stars + name


def port_range(entry: int | str) -> tuple[int, int]:
    """The first and last port of an entry of `ports`. InvalidRequest when it is neither number nor range."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        first = last = entry
    else:
        found = _PORTS.fullmatch(str(entry))
        first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise InvalidRequest(f"{entry!r} is no port: write a number from 1 to 65535 or a range as 8000-8100.")
    return first, last


def _check_cidr(text: str) -> None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no network: write it as 192.0.2.0/24.") from None
    if network.version == 6:
        raise InvalidRequest(f"{text!r} is an IPv6 network, and IPv6 is off for every sandbox.")
    if str(network) != text:
        raise InvalidRequest(f"{text!r} is not written as a network; {network} was probably meant.")


def _decoded(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode("latin-1")
    except ValueError:
        return None
