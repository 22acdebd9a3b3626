"""Kernels as a guest has them: what can be started there, where each one's files are, whether it lives.

What contexts a sandbox has is told by folders in its memory, so it is the same in a snapshot and in every
fork. One folder a context, named by its id: `session.json` (`Record`) and `connection.json` (Jupyter's). The
folder of one that a template has started ahead is `spare-LANGUAGE`, and whoever renames it has it. All of it
is what a guest says, and only ever about itself.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from pandastack.errors import (
    Conflict,
    FileMissing,
    KernelDied,
    NotFound,
    NotSupported,
)
from pandastack.jupyter.messages import ConnectionFile
from pandastack.model.guest import Command, FileKind, Guest

T = TypeVar("T")

ROOT = "/run/pandastack/kernels"
SPECS = ("/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels")
"""Where Jupyter looks for kernels that are installed for everybody; the first that has one wins."""

ALIASES = {"py": "python", "python3": "python", "js": "javascript", "node": "javascript", "sh": "bash"}
LANGUAGES = ("bash", "javascript", "python")
"""Those of the template code-interpreter."""

PORTS = range(24_000, 25_000)
"""On the guest's loopback alone, five of each kernel."""
AHEAD = 100
"""The first so many are of kernels that a guest starts ahead, and are chosen there."""
FIVE = 5

SPARE = "/usr/local/lib/pandastack/kernels/spare.sh"
"""Starts a kernel ahead, in templates that do; one at most."""
SPARE_SECONDS = 5
"""After which it begins: whoever was given the last one is to have the machine for a first cell."""

FILE_MOST = 64 << 10
SPECS_MOST = 64
RECORDS_MOST = 64
ENDED_SECONDS = 2.0
"""How long a kernel that has left may take until its end is known."""
LAST_WORDS = 1000
POLL_SECONDS = 0.05


class Record(Struct, frozen=True, omit_defaults=True):
    """A context: its language, and what runs it, a process of the agent's or one by its number."""

    language: Annotated[str, Meta(min_length=1, max_length=64)]
    created_at: datetime | None = None
    process: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    pid: Annotated[int, Meta(ge=2, le=1 << 22)] | None = None
    interrupt: Literal["message", "signal"] = "message"
    starts: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Spec(Struct, frozen=True):
    """A kernel that is installed, as Jupyter's `kernel.json` tells it."""

    argv: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    language: str = ""
    env: dict[str, str] = {}
    interrupt_mode: Literal["message", "signal"] = "signal"


class Places:
    """The kernels of one guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    async def records(self) -> dict[str, Record]:
        """The contexts that there are, by id."""
        try:
            entries = await self._guest.list(ROOT)
        except FileMissing:
            return {}
        names = sorted(entry.name for entry in entries if entry.kind is FileKind.DIRECTORY)
        found = {}
        for name in [name for name in names if is_context(name)][:RECORDS_MOST]:
            record = await self._read(f"{ROOT}/{name}/session.json", Record)
            if record is not None:
                found[name] = record
        return found

    async def record(self, context_id: str) -> Record:
        """Errors: NotFound."""
        found = None
        if is_context(context_id):
            found = await self._read(f"{ROOT}/{context_id}/session.json", Record)
        if found is None:
            raise NotFound(f"session not found: {context_id[:64]}")
        return found

    async def connection(self, context_id: str) -> ConnectionFile:
        """Where its kernel listens. Errors: KernelDied when nothing of it can be known."""
        found = await self._read(f"{ROOT}/{context_id}/connection.json", ConnectionFile)
        if found is None or found.signature_scheme != "hmac-sha256":
            raise KernelDied("the kernel has left nothing by which it could be reached; restart it")
        return found

    async def claim(self, context_id: str, language: str, now: datetime) -> Record | None:
        """Make the kernel that was started ahead this context's; None when there is none."""
        place = f"{ROOT}/{context_id}"
        try:
            await self._guest.move(f"{ROOT}/spare-{language}", place)
        except FileMissing:
            return None
        found = await self._read(f"{place}/session.json", Record)
        record = structs.replace(found or Record(language), language=language, created_at=now)
        await self._write(f"{place}/session.json", record)
        return record

    async def replenish(self, context_id: str) -> None:
        """Have another one started ahead, in place of the one that this context has taken.

        The guest does it alone and in its own time, so a fork or a wake in between loses nothing.
        """
        words = (SPARE, str(SPARE_SECONDS))
        command = Command(process_id=f"spare-{context_id[:36]}", argv=words, detached=True)
        async with self._guest.run(command) as running:
            await running.detach()

    async def start(self, context_id: str, language: str, key: str, now: datetime, starts: int = 0) -> Record:
        """Start a kernel for a context, anew or once more. Errors: NotSupported when none is installed."""
        spec = await self._spec(language)
        place, process = f"{ROOT}/{context_id}", f"kernel-{context_id[:36]}-{starts}"
        ports = await self._free_ports()
        record = Record(language, now, process, None, spec.interrupt_mode, starts)
        await self._write(f"{place}/connection.json", ConnectionFile(*ports, key, kernel_name=language))
        await self._write(f"{place}/session.json", record)
        words = tuple(word.replace("{connection_file}", f"{place}/connection.json") for word in spec.argv)
        command = Command(process_id=process, argv=words, env=spec.env, detached=True)
        async with self._guest.run(command) as running:
            await running.detach()
        return record

    async def end(self, context_id: str, record: Record) -> None:
        """Kill the kernel; fine when it is dead."""
        if record.process is not None:
            try:
                await self._guest.kill(record.process, signal.SIGKILL)
            except NotFound:
                return
        elif record.pid is not None:
            words = ("kill", "-KILL", "--", f"-{record.pid}")
            command = Command(process_id=f"end-{context_id[:36]}-{record.starts}", argv=words)
            async with self._guest.run(command) as running:
                await running.wait()

    async def forget(self, context_id: str) -> None:
        """Remove the context; fine when it is gone."""
        try:
            await self._guest.remove(f"{ROOT}/{context_id}", recursive=True)
        except FileMissing:
            return

    async def interrupt(self, record: Record) -> None:
        """Send SIGINT to a kernel that understands nothing else."""
        if record.process is not None:
            try:
                await self._guest.kill(record.process, signal.SIGINT)
            except NotFound:
                return

    async def fate(
        self, context_id: str, record: Record, *, seconds: float = ENDED_SECONDS
    ) -> KernelDied | None:
        """How its kernel ended; None while it runs after `seconds`."""
        if record.process is None:
            return await self._noted_end(context_id, seconds)
        try:
            info = await self._guest.process(record.process, wait_seconds=seconds)
        except NotFound:
            return _died(None, "")
        if info.running:
            return None
        return _died(info.exit_code, await self._last_words(record.process))

    async def _noted_end(self, context_id: str, seconds: float) -> KernelDied | None:
        """Of one that was started ahead, a file tells."""
        for _ in range(max(1, round(seconds / POLL_SECONDS))):
            try:
                text = await self._content(f"{ROOT}/{context_id}/exit")
            except FileMissing:
                return _died(None, "")
            if text.strip():
                return _died(int(text) if text.strip().isdigit() and len(text) < 8 else None, "")
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def _last_words(self, process_id: str) -> str:
        said = b""
        try:
            async with self._guest.attach(process_id) as process:
                async for piece in process.output():
                    said = (said + piece.data)[-LAST_WORDS:]
        except NotFound:
            return ""
        return said.decode("utf-8", "replace").strip()

    async def _spec(self, language: str) -> Spec:
        """The installed kernel that is called by this name, or speaks this language."""
        by_language = None
        for folder in SPECS:
            try:
                entries = await self._guest.list(folder)
            except FileMissing:
                continue
            names = sorted(entry.name for entry in entries if entry.kind in "dl" and "/" not in entry.name)
            for name in names[:SPECS_MOST]:
                spec = await self._read(f"{folder}/{name}/kernel.json", Spec)
                if spec is not None and name.lower() == language:
                    return spec
                if spec is not None and by_language is None and spec.language.lower() == language:
                    by_language = spec
        if by_language is None:
            raise NotSupported(
                f"This sandbox has no kernel for {language}: the template code-interpreter has those for "
                f"{', '.join(LANGUAGES)}, and any Jupyter kernel can be installed."
            )
        return by_language

    async def _free_ports(self) -> tuple[int, int, int, int, int]:
        taken = {port.number for port in await self._guest.ports()}
        for record_id in await self.records():
            try:
                file = await self.connection(record_id)
            except KernelDied:
                continue
            taken |= {file.shell_port, file.iopub_port, file.stdin_port, file.control_port, file.hb_port}
        free = [port for port in PORTS[AHEAD:] if port not in taken]
        if len(free) < FIVE:
            raise Conflict("The sandbox has no ports left for one more kernel.")
        return free[0], free[1], free[2], free[3], free[4]

    async def _read(self, path: str, kind: type[T]) -> T | None:
        """A file as the value that it is; None when it is none, or not there."""
        try:
            return msgspec.json.decode(await self._content(path), type=kind)
        except (FileMissing, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None

    async def _content(self, path: str) -> str:
        content = bytearray()
        async with self._guest.read(path, length=FILE_MOST) as reader:
            async for piece in reader:
                content += piece
        return content[:FILE_MOST].decode("utf-8", "replace")

    async def _write(self, path: str, value: object) -> None:
        async def whole() -> AsyncIterator[bytes]:
            yield msgspec.json.encode(value)

        await self._guest.write(path, whole(), mode=0o600)


def is_context(name: str) -> bool:
    """Whether a context can have this id."""
    return 0 < len(name) <= 36 and name.isascii() and name.replace("-", "").isalnum() and name[:6] != "spare-"


def language_of(name: str) -> str:
    """A language by its one name."""
    lower = name.lower()
    return ALIASES.get(lower, lower)


def _died(code: int | None, words: str) -> KernelDied:
    how = "it is not running"
    if code is not None:
        number = code - 128
        how = f"exit signal {number}" if 0 < number < 65 else f"exit code {code}"
        how += " (out of memory?)" if number == signal.SIGKILL else ""
    last = f": {words}" if words else ""
    return KernelDied(
        f"the kernel died: {how}; restart it to go on without what it knew{last}", exit_code=code
    )
