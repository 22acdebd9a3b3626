"""The restore proof, item by item, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from pandastack.model.restore import RestoreProof
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.web.look import duration


class Item(Struct, frozen=True):
    """One thing that was renewed or checked. `good` is None where there was nothing to do."""

    what: str
    value: str
    meaning: str
    good: bool | None = True
    exact: bool = False
    """The value is a name, to be read letter by letter."""


def items(proof: RestoreProof, *, cold: bool) -> list[Item]:
    """All of it, in the order in which a restore goes. A cold one has booted with the disk alone."""
    return [*_checked(proof, cold), *_renewed(proof, cold), *_told(proof)]


def why_none(sandbox: Sandbox) -> str:
    """Why there is no proof, in a sentence or two."""
    if sandbox.status is SandboxState.CREATING:
        return "It is coming up. Nobody can use it before its guest has passed the gate."
    if sandbox.awake_since is None and sandbox.boot_mode == "":
        return "It never came up, so there was nothing to renew."
    return "No gate is on record for the last time that it came up."


def _checked(proof: RestoreProof, cold: bool) -> Iterator[Item]:
    monitor = f"{proof.driver} {proof.driver_version}".strip()
    if cold:
        yield Item("Disk", proof.origin, "It booted with this disk: no memory was taken over.", exact=True)
        yield Item("Machine monitor", monitor or "not told", "Of this host.", None)
        return
    same = "What the state was made on. Anything else is refused before the start."
    yield Item("State", proof.origin, "Memory, devices and disk, all of one moment.", exact=True)
    yield Item("Machine monitor", monitor or "not told", same, monitor != "")
    mode = ", ".join(each for each in (proof.accel, proof.cpu) if each)
    yield Item("Mode and processor", mode or "not told", same, mode != "")


def _renewed(proof: RestoreProof, cold: bool) -> Iterator[Item]:
    fresh = f"{proof.entropy_bytes} fresh bytes" if proof.entropy_bytes else ""
    seeded = "The kernel's generator was seeded anew: no sibling draws the same."
    yield _new("Random numbers", fresh, seeded)
    step = "set" if cold else _clock(proof.clock_step_ms)
    yield Item("Wall clock", step, "It is the host's now.")
    yield _new("Boot id", proof.boot_id, "New, and nobody else's.", exact=True)
    yield _new("Machine id", proof.machine_id, "New, and nobody else's.", exact=True)
    yield _new("Host name", proof.hostname, "Its own.", exact=True)


def _new(what: str, value: str, meaning: str, *, exact: bool = False) -> Item:
    if value == "":
        return Item(what, "not renewed", "The guest has told none: others may share it.", good=False)
    return Item(what, value, meaning, exact=exact)


def _told(proof: RestoreProof) -> Iterator[Item]:
    failed = ", ".join(proof.hooks_failed)
    if failed:
        yield Item("Programs", f"{failed} failed", "They may not know that they were restored.", good=False)
    told = f"{proof.hooks_run} told" if proof.hooks_run else "none to tell"
    if proof.hooks_run or not failed:
        meaning = "Those in /etc/pandastack/on-restore.d renew what is their own."
        yield Item("Programs", told, meaning, True if proof.hooks_run else None)
    yield Item("Gate", duration(proof.gate_ms), "Nobody could use the sandbox before this was done.")


def _clock(step_ms: float) -> str:
    if step_ms == 0:
        return "was right"
    return f"set {'forward' if step_ms > 0 else 'back'} by {duration(abs(step_ms))}"
