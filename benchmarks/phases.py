"""Where the time of an order went, as the server tells it."""

from __future__ import annotations

NESTED = frozenset({"gate"})
"""Phases that lie within another one."""


def phases(told: dict[str, float], wall: float) -> dict[str, float]:
    """The server's phases as samples, and what passed outside of them: control plane, HTTP, the client."""
    inside = sum(value for name, value in told.items() if name not in NESTED)
    return {f"phase_{name}_ms": value for name, value in {**told, "around": wall - inside}.items()}
