# Made from `../_async/lifecycle.py` by `scripts/unasync`: change that file.
"""How long a sandbox stays up, and what puts it to sleep and wakes it."""

from __future__ import annotations

from typing import Unpack, cast

from pandastack.client import _wire
from pandastack.client._sync.handle import Handle
from pandastack.client._values import Lifecycle, WhyAwake
from pandastack.client._wire import LifecycleOptions


class LifecycleVerbs(Handle):
    """The verbs of a sandbox that are about its time."""

    def pause(self) -> None:
        """Stop its processors; its memory stays where it is. Fine when they are stopped."""
        self._verb("POST", "pause")

    def resume(self) -> None:
        """Let a paused sandbox go on. Fine when it runs."""
        self._verb("POST", "resume")

    def hibernate(self) -> None:
        """Write its memory and disk down and end its machine: it takes no memory, and no time passes in it.

        Whatever uses it next wakes it, in the state in which it was. Fine when it is hibernated.
        """
        self._verb("POST", "hibernate", gap=_wire.SNAPSHOT_SECONDS)

    def wake(self, *, disk_only: bool = False) -> None:
        """Wake a hibernated sandbox before it is used. Fine when it runs.

        With `disk_only` it boots with its disk, for when its memory cannot be used: nothing runs in it then.
        """
        body = {"disk_only": True} if disk_only else None
        self._verb("POST", "wake", body, gap=_wire.SNAPSHOT_SECONDS)

    def lifecycle(self) -> Lifecycle:
        """How long it may idle and live, and how long it has idled, in seconds."""
        return cast("Lifecycle", self._verb("GET", "lifecycle"))

    def set_lifecycle(self, **changes: Unpack[LifecycleOptions]) -> Lifecycle:
        """Change what is named and leave the rest: `ttl_seconds`, `persistent`, `on_timeout`, `checkpoints`,
        `keep_checkpoints`, `idle_timeout_seconds` and `lifetime_seconds`, of which the last two take None for
        no limit.
        """
        answer = self._verb("PATCH", "lifecycle", dict(changes))
        self.persistent = changes.get("persistent", self.persistent)
        return cast("Lifecycle", answer)

    def set_ttl(self, seconds: int) -> Lifecycle:
        """Let it idle this long from now on."""
        return self.set_lifecycle(ttl_seconds=seconds)

    def set_persistent(self, persistent: bool) -> Lifecycle:
        """Keep it, whatever its idle time, or no longer."""
        return self.set_lifecycle(persistent=persistent)

    def why_awake(self) -> WhyAwake:
        """What keeps it up, and in how many seconds it would sleep or end. Asking does not wake it."""
        return cast("WhyAwake", self._verb("GET", "why-awake"))
