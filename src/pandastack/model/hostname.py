"""Names of hosts, in the one spelling in which they are compared."""

from __future__ import annotations

import re

NAME_LENGTH = 253
LABEL_LENGTH = 63

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_READ_IN_TWO_WAYS = frozenset("ßς\u200c\u200d")
"""Letters that the two IDNA standards make different names of."""


def canonical_name(text: str) -> str | None:
    """`text` in lower case, in its ASCII (`xn--`) form, without the dot at its end; None when it is no name
    of a host: an address in any notation, too long, empty labels, letters that are read in two ways.
    """
    if not text.isascii():
        text = _ascii_form(text) or ""
    name = text.lower()
    name = name[:-1] if name.endswith(".") else name
    if not 0 < len(name) <= NAME_LENGTH:
        return None
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or _NUMBER.fullmatch(labels[-1]):
        return None
    return name


def name_on_the_wire(raw: bytes) -> str | None:
    """A name that a program has sent, canonical; None for what is no name, letters beyond ASCII included."""
    try:
        return canonical_name(raw.decode("ascii"))
    except UnicodeDecodeError:
        return None


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a canonical name: itself, `*.parent` (at any depth, not the parent), `*`."""
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def _ascii_form(text: str) -> str | None:
    if _READ_IN_TWO_WAYS.intersection(text):
        return None
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        return None
