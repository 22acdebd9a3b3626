"""Sandboxes on real machines, each made ready for a verb that is to be interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
from msgspec import Struct

from tests.api.test_kills import ALL
from tests.vm.yard import Yard


class Case(Struct, frozen=True):
    """A sandbox made ready for a verb, and the snapshot that the verb is about."""

    verb: str
    box: str
    snapshot: str = ""

    def request(self) -> tuple[str, str, dict[str, Any] | None]:
        """What asks for the verb."""
        if self.verb == "create":
            return "POST", ALL, {"template": "base"}
        if self.verb == "drop":
            return "DELETE", f"/v1/snapshots/{self.snapshot}", None
        path = f"{ALL}/{self.box}"
        if self.verb == "delete":
            return "DELETE", path, None
        name = {"snapshot": "snapshots", "fork-one": "fork"}.get(self.verb, self.verb)
        bodies: dict[str, dict[str, Any]] = {
            "fork": {"count": 2},
            "fork-one": {"count": 1},
            "rollback": {"snapshot_id": self.snapshot},
        }
        return "POST", f"{path}/{name}", bodies.get(self.verb)


async def ready(yard: Yard, verb: str) -> Case:
    """A sandbox for the verb; none for a create."""
    if verb == "create":
        return Case(verb, "")
    box = await yard.make(f"{verb}-{len(yard.tokens)}")
    if verb == "wake":
        await yard.call("POST", f"{ALL}/{box}/hibernate")
    if verb not in {"rollback", "drop"}:
        return Case(verb, box)
    taken = await yard.call("POST", f"{ALL}/{box}/snapshots", status=201)
    return Case(verb, box, taken["id"])


def asked(yard: Yard, case: Case) -> asyncio.Task[httpx2.Response]:
    """The verb, under way."""
    return yard.ask(*case.request())
