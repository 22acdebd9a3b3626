"""The proof of a restore: what was renewed in a machine before anybody could use it."""

from __future__ import annotations

from msgspec import Struct


class RestoreProof(Struct, frozen=True, kw_only=True):
    """What the restore gate did, as the guest and its host tell it. The sandbox was usable only after this.

    Everything that a snapshot would otherwise share among its restores: the kernel's random numbers, the
    clock, the names of the machine. Times are milliseconds.
    """

    origin: str
    """What was restored: `template`, or the id of a snapshot."""
    entropy_bytes: int
    """Fresh random bytes that the guest's kernel was reseeded with (RNDADDENTROPY, RNDRESEEDCRNG)."""
    boot_id: str = ""
    machine_id: str = ""
    hostname: str = ""
    clock_step_ms: float = 0.0
    """How far the guest's wall clock was set forward or back."""
    hooks_run: int = 0
    """Programs of `/etc/pandastack/on-restore.d` that ended well."""
    hooks_failed: list[str] = []
    """Names of those that failed or were ended at the deadline."""
    gate_ms: float = 0.0
    """How long the guest took for all of it."""
    driver: str = ""
    driver_version: str = ""
    accel: str = ""
    cpu: str = ""
    """The machinery that the snapshot was made on, which is this host's."""
