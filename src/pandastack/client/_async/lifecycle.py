"""How long a sandbox stays up, and what puts it to sleep and wakes it."""

from __future__ import annotations

from typing import Unpack, cast

from pandastack.client import _wire
from pandastack.client._async.handle import AsyncHandle
from pandastack.client._values import Lifecycle, WhyAwake
from pandastack.client._wire import LifecycleOptions


class AsyncLifecycleVerbs(AsyncHandle):
    """The verbs of a sandbox that are about its time."""

    async def pause(self) -> None:
        """Stop its processors; its memory stays where it is. Fine when they are stopped."""
        await self._verb("POST", "pause")

    async def resume(self) -> None:
        """Let a paused sandbox go on. Fine when it runs."""
        await self._verb("POST", "resume")

    async def hibernate(self) -> None:
        """Write its memory and disk down and end its machine: it takes no memory, and no time passes in it.

        Whatever uses it next wakes it, in the state in which it was. Fine when it is hibernated.
        """
        await self._verb("POST", "hibernate", gap=_wire.SNAPSHOT_SECONDS)

    async def wake(self, *, disk_only: bool = False) -> None:
        """Wake a hibernated sandbox before it is used. Fine when it runs.

        With `disk_only` it boots with its disk, for when its memory cannot be used: nothing runs in it then.
        """
        body = {"disk_only": True} if disk_only else None
        await self._verb("POST", "wake", body, gap=_wire.SNAPSHOT_SECONDS)

    async def lifecycle(self) -> Lifecycle:
        """How long it may idle and live, and how long it has idled, in seconds."""
        return cast("Lifecycle", await self._verb("GET", "lifecycle"))

    async def set_lifecycle(self, **changes: Unpack[LifecycleOptions]) -> Lifecycle:
        """Change what is named and leave the rest: `ttl_seconds`, `persistent`, `on_timeout`, `checkpoints`,
        `keep_checkpoints`, `idle_timeout_seconds` and `lifetime_seconds`, of which the last two take None for
        no limit.
        """
        answer = await self._verb("PATCH", "lifecycle", dict(changes))
        self.persistent = changes.get("persistent", self.persistent)
        return cast("Lifecycle", answer)

    async def set_ttl(self, seconds: int) -> Lifecycle:
        """Let it idle this long from now on."""
        return await self.set_lifecycle(ttl_seconds=seconds)

    async def set_persistent(self, persistent: bool) -> Lifecycle:
        """Keep it, whatever its idle time, or no longer."""
        return await self.set_lifecycle(persistent=persistent)

    async def why_awake(self) -> WhyAwake:
        """What keeps it up, and in how many seconds it would sleep or end. Asking does not wake it."""
        return cast("WhyAwake", await self._verb("GET", "why-awake"))
