"""`sandbox.commands`: commands that are waited for, and processes that are not."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from types import TracebackType
from typing import BinaryIO, Self, Unpack

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._errors import ConnectionError, NotFoundError, SandboxTimeout
from pandastack.client._pair import pieces_async
from pandastack.client._values import ExecResult, ProcessInfo, ProcessOutput, take
from pandastack.client._wire import Call, Command, ExecOptions, PlaceOptions, query

Processes = list[ProcessInfo]


class AsyncProcess:
    """A background process of a sandbox: it goes on whatever becomes of this program.

    As a context manager it is killed at the end of the block, unless `detach` was called. `id` re-attaches to
    it later with `sandbox.commands.attach(id)`.
    """

    def __init__(self, connection: AsyncConnection, root: str, info: ProcessInfo) -> None:
        self._connection = connection
        self._root = root
        self._path = f"{root}/{_wire.segment(info.id)}"
        self._info = info
        self._detached = False

    @property
    def id(self) -> str:
        """What the sandbox calls this process."""
        return self._info.id

    @property
    def pid(self) -> int:
        """Its number in the guest."""
        return self._info.pid

    @property
    def command(self) -> str:
        """What was started."""
        return self._info.command

    @property
    def exit_code(self) -> int | None:
        """How it ended as far as this object knows, None while it runs; 128+n for signal n."""
        return self._info.exit_code

    async def refresh(self) -> Self:
        """Ask the sandbox again whether it runs."""
        self._info = await find(self._connection, self._root, self.id)
        return self

    async def wait(self, timeout_seconds: float | None = None) -> int:
        """The exit code, once it has ended; SandboxTimeout after `timeout_seconds`, and it runs on."""
        now = self._connection.clock
        deadline = math.inf if timeout_seconds is None else now() + timeout_seconds
        while True:
            left = max(0.0, deadline - now())
            wait = min(left, _wire.WAIT_SECONDS)
            self._info = await find(self._connection, self._root, self.id, wait_seconds=wait)
            if not self._info.running:
                return self._info.exit_code or 0
            if not left:
                raise SandboxTimeout(
                    f"process {self.id} still runs after {timeout_seconds:g} s: {self.command}"
                )

    async def write(self, data: bytes | str | BinaryIO, *, eof: bool = False) -> None:
        """Give it more to read, text as UTF-8, a file in pieces; with `eof` its stdin ends behind it.

        Returns when its pipe has taken all of it: a process that does not read holds its writer up.
        BadRequestError for a process that was started without `stdin=True`, that has ended, or whose stdin
        has.
        """
        if isinstance(data, str):
            data = data.encode()
        body = data if isinstance(data, bytes | bytearray | memoryview) else pieces_async(data)
        call = Call(
            method="POST",
            path=f"{self._path}/stdin",
            params=query(eof=eof or None),
            headers={"Content-Type": "application/octet-stream"},
            read_timeout=_wire.STREAM_GAP_SECONDS,
        )
        async with self._connection.stream(call, content=body) as response:
            await response.aread()

    async def close_stdin(self) -> None:
        """End its stdin; errors as `write`."""
        await self.write(b"", eof=True)

    async def output(self) -> AsyncIterator[ProcessOutput]:
        """Its last 64 KiB of output, then what follows as it comes, until it ends. Hanging up leaves it
        running.

        A process that nobody listens to is never held up: older output is dropped.
        """
        async with self._connection.events(Call(method="GET", path=f"{self._path}/stream")) as records:
            async for record in records:
                value = _wire.record_value(record)
                if record.event in ("stdout", "stderr"):
                    yield ProcessOutput(record.event, str(value.get("chunk", "")))

    def __aiter__(self) -> AsyncIterator[ProcessOutput]:
        return self.output()

    async def signal(self, number: int | str) -> None:
        """Send a signal to its process group: a number, or a name such as "TERM" or "SIGTERM"."""
        call = Call(method="POST", path=f"{self._path}/signal", json={"signal": number})
        await self._connection.request(call)

    async def kill(self) -> None:
        """End it and its children now; fine when it has ended."""
        await self._connection.request(Call(method="DELETE", path=self._path))

    def detach(self) -> Self:
        """Let it run on after the end of the block."""
        self._detached = True
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._detached:
            return
        try:
            await self.kill()
        except NotFoundError:
            return  # the sandbox has forgotten it: it ended long ago


class AsyncSandboxCommands:
    """Commands of one sandbox.

    A `cmd` is a line for the user's shell, or a list: a program and its arguments, taken as they are.
    """

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox = f"/sandboxes/{_wire.segment(sandbox_id)}"
        self._root = f"{self._sandbox}/processes"

    async def run(
        self,
        cmd: Command,
        timeout: float | None = None,
        *,
        check: bool = False,
        **options: Unpack[ExecOptions],
    ) -> ExecResult:
        """Run a command and wait for it, however long it stays silent; `timeout` in seconds.

        Errors: SandboxTimeout when it was killed at its deadline, CommandFailed with `check` for another exit
        code than 0, ExecInterrupted when its outcome is unknown.
        """
        capture = _wire.Capture(options.get("on_stdout"), options.get("on_stderr"))
        body = _wire.exec_body(cmd, timeout, options, stdin=options.get("stdin"))
        result = await self._follow(body, _wire.stream_gap(timeout), capture)
        return _wire.check_exit(result, cmd) if check else result

    async def _follow(self, body: dict[str, object], gap: float, capture: _wire.Capture) -> ExecResult:
        call = Call(method="POST", path=f"{self._sandbox}/exec/stream", json=body, read_timeout=gap)
        try:
            async with self._connection.events(call) as records:
                capture.begin()
                async for record in records:
                    capture.take(record)
        except ConnectionError as error:
            if capture.begun:
                raise capture.interrupted() from error
            raise
        return capture.result()

    async def start(
        self,
        cmd: Command,
        timeout_seconds: float | None = None,
        *,
        stdin: bool = False,
        **options: Unpack[PlaceOptions],
    ) -> AsyncProcess:
        """Start a command that runs in the background and return at once. It has nothing to read, or with
        `stdin` what its `write` gives it.

        Example: `server = sandbox.commands.start(["python3", "-m", "http.server", "8000"])`
        """
        body = _wire.exec_body(cmd, timeout_seconds, options, stdin=stdin or None)
        answer = await self._connection.request(Call(method="POST", path=self._root, json=body))
        info = ProcessInfo(str(answer["process_id"]), int(answer["pid"]), _wire.shown(cmd), stdin=stdin)
        return AsyncProcess(self._connection, self._root, info)

    async def list(self) -> Processes:
        """The processes that were started here, and those ended ones that the sandbox still remembers."""
        answer = await self._connection.request(Call(method="GET", path=self._root))
        return [take(ProcessInfo, item) for item in _wire.items_of(answer)]

    async def attach(self, process_id: str) -> AsyncProcess:
        """The process with this id, from any program; NotFoundError when the sandbox does not know it."""
        info = await find(self._connection, self._root, process_id)
        return AsyncProcess(self._connection, self._root, info)


async def find(
    connection: AsyncConnection, root: str, process_id: str, *, wait_seconds: float = 0.0
) -> ProcessInfo:
    """What the sandbox says about a process, as soon as it has ended or after `wait_seconds`; NotFoundError
    when it does not know it.
    """
    params = query(wait_seconds=round(wait_seconds, 3) or None)
    path = f"{root}/{_wire.segment(process_id)}"
    call = Call(method="GET", path=path, params=params, read_timeout=wait_seconds + connection.timeout)
    return take(ProcessInfo, await connection.request(call))
