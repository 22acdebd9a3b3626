"""Code contexts of a sandbox: what one cell leaves behind the next one finds."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._async.handle import AsyncHandle
from pandastack.client._code import CellCapture, Execution, ResultCallback, cell_body
from pandastack.client._errors import ConnectionError, NotFoundError
from pandastack.client._wire import Call, OutputCallback


class AsyncCodeContext:
    """A Jupyter kernel of a sandbox. As a context manager it is deleted at the end of the block.

        async with await sandbox.create_code_context() as context:
            await context.run_code("x = 41")
            print((await context.run_code("x + 1")).text)

    It is part of the sandbox: it sleeps and wakes with it, and every fork has it as it was.
    """

    def __init__(self, connection: AsyncConnection, root: str, context_id: str, language: str) -> None:
        self._connection = connection
        self._path = f"{root}/repl/sessions/{_wire.segment(context_id)}"
        self.id = context_id
        self.language = language

    async def run_code(
        self,
        code: str,
        timeout_seconds: float | None = None,
        *,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        on_result: ResultCallback | None = None,
    ) -> Execution:
        """Run a cell and wait for it; the callbacks get what it shows as it comes.

        What the cell raises is in the answer. At `timeout_seconds` (30 when nothing is said, 0 for never) it
        is interrupted: SandboxTimeout; the context stays. ServerError tells that the kernel died: `restart`.
        """
        capture = CellCapture(on_stdout, on_stderr, on_result)
        body, gap = cell_body(code, timeout_seconds), _wire.stream_gap(timeout_seconds)
        call = Call(method="POST", path=f"{self._path}/run/stream", json=body, read_timeout=gap)
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

    async def interrupt(self) -> None:
        """Stop the cell that runs, if one does; the context stays."""
        await self._connection.request(Call(method="POST", path=f"{self._path}/interrupt"))

    async def restart(self) -> None:
        """Give it a new kernel: what it knew is gone."""
        gap = _wire.CREATE_SECONDS
        await self._connection.request(Call(method="POST", path=f"{self._path}/restart", read_timeout=gap))

    async def delete(self) -> None:
        """End it; NotFoundError when it was gone already."""
        await self._connection.request(Call(method="DELETE", path=self._path))

    async def close(self) -> None:
        """End it; fine when it was gone already."""
        try:
            await self.delete()
        except NotFoundError:
            return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncCodeVerbs(AsyncHandle):
    """The verbs of a sandbox that are about code contexts."""

    async def create_code_context(self, language: str = "python") -> AsyncCodeContext:
        """A new context for cells of Python, bash, JavaScript, or whatever has a Jupyter kernel there.

        Errors: BadRequestError when nothing in the sandbox runs this language.
        """
        answer = await self._verb("POST", "repl/sessions", {"language": language}, gap=_wire.CREATE_SECONDS)
        return self._context(answer)

    async def code_contexts(self) -> list[AsyncCodeContext]:
        """The contexts that it has, oldest first. It is not woken for that."""
        answer = await self._verb("GET", "repl/sessions")
        return [self._context(item) for item in _wire.items_of(answer)]

    def _context(self, answer: dict[str, Any]) -> AsyncCodeContext:
        return AsyncCodeContext(
            self._connection, self._path, str(answer["id"]), str(answer.get("language") or "")
        )
