"""`AsyncSandbox`: one sandbox and everything that can be done with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, Unpack, cast

from pandastack.client import _wire
from pandastack.client._async.browser import AsyncBrowserVerbs
from pandastack.client._async.code import AsyncCodeVerbs
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._async.default import default_connection
from pandastack.client._async.egress import AsyncEgressVerbs
from pandastack.client._async.explore import AsyncExploreVerbs
from pandastack.client._async.files import AsyncSandboxFilesystem
from pandastack.client._async.lifecycle import AsyncLifecycleVerbs
from pandastack.client._async.lsp import AsyncLanguageVerbs
from pandastack.client._async.ports import AsyncPortVerbs
from pandastack.client._async.secrets import AsyncSecretVerbs
from pandastack.client._async.terminal import AsyncTerminal, open_terminal
from pandastack.client._async.terminals import AsyncTerminals
from pandastack.client._errors import NotFoundError, PandastackError
from pandastack.client._pair import AsyncCancelEvent
from pandastack.client._values import EgressPolicy, Event, ExecResult, Metrics, RestoreProof, take
from pandastack.client._wire import (
    Call,
    Command,
    CommandOptions,
    CreateOptions,
    ExecOptions,
    OutputCallback,
    query,
)

LAST_EVENT = "sandbox.deleted"
"""Nothing happens to a sandbox after this."""

_log = logging.getLogger("pandastack.client")


class AsyncConnected(Protocol):
    """Whatever has a connection: a client."""

    connection: AsyncConnection


@dataclass
class AsyncSandbox(
    AsyncExploreVerbs,
    AsyncLifecycleVerbs,
    AsyncEgressVerbs,
    AsyncPortVerbs,
    AsyncSecretVerbs,
    AsyncCodeVerbs,
    AsyncBrowserVerbs,
    AsyncLanguageVerbs,
):
    """One sandbox: a microVM of its own.

    As a context manager it is destroyed at the end of the block, by an exception too, unless it is
    persistent:

        async with await AsyncSandbox.create() as sandbox:
            result = await sandbox.exec("python3 --version", check=True)

    The fields are what the server last said; `refresh` asks again. `boot_mode`, `boot_ms` and `phases_ms`
    (milliseconds) tell how it last came up: `snapshot` when it went on from a state, `cold` when it booted
    with nothing but a disk. `restore_proof` is what was renewed in it then. Using a hibernated sandbox wakes
    it, asking about it does not. Every verb raises NotFoundError once the sandbox is gone and ConnectionError
    when the server cannot be reached.
    """

    id: str
    template: str
    cpu: int
    memory_mb: int
    status: str
    guest_ip: str | None = None
    created_at: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    from_snapshot: str | None = None
    boot_ms: int | None = None
    boot_mode: str | None = None
    persistent: bool = False
    ttl_seconds: int | None = None
    isolation: str | None = None
    degraded: list[str] | None = None
    host: str | None = None
    cause: str | None = None
    phases_ms: dict[str, float] = field(default_factory=dict)
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    parent_id: str | None = None
    tree_id: str | None = None
    on_timeout: str | None = None
    idle_timeout_seconds: int | None = None
    expires_at: str | None = None
    restore_proof: RestoreProof | None = None
    checkpoints: str | None = None
    keep_checkpoints: int | None = None
    _connection: AsyncConnection = field(default=cast("AsyncConnection", None), repr=False, compare=False)

    default_template: ClassVar[str] = _wire.DEFAULT_TEMPLATE

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], client: AsyncConnected, persistent: bool = False) -> Self:
        """The sandbox that an answer of the server describes, to be used with this client."""
        return cls.from_answer({"persistent": persistent, **data}, client.connection)

    @classmethod
    async def create(  # noqa: PLR0913  # the official SDK's signature
        cls,
        template: str = default_template,
        cpu: int | None = None,
        memory_mb: int | None = None,
        metadata: Mapping[str, str] | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
        from_snapshot: str | None = None,
        volumes: Sequence[Mapping[str, Any]] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cancel: AsyncCancelEvent | None = None,
        **times: Unpack[CreateOptions],
    ) -> Self:
        """Create a sandbox with the default client; it runs and answers when this returns.

        With `from_snapshot` it goes on from there, whatever `template` says; with `disk_only=True` too it
        boots with the disk of that, for when its memory cannot be used. `ttl_seconds` counts from its last
        activity. `times` are those of `CreateOptions`: `on_timeout`, `idle_timeout_seconds` and
        `lifetime_seconds`, and with `checkpoints="exec"` (and `keep_checkpoints`) a `timeline`. `env` is the
        environment of all its commands, and `secrets` what is put into its requests. `cpu`, `memory_mb`
        and `disk_gb` are raised to the next size that there is, and without them the template's; the first
        sandbox of a size waits until the template has booted in it. A refusal for lack of room is retried
        (`Client` says for how long); `cancel` gives that up with CreateCancelled.

        Errors: NotFoundError for an unknown template or snapshot, BadRequestError for what the server does
        not take, ServerError when no machine came up.
        """
        body = _wire.create_body(
            template=template,
            sizes=(cpu, memory_mb),
            metadata=metadata,
            ttl_seconds=ttl_seconds,
            persistent=persistent,
            from_snapshot=from_snapshot,
            volumes=volumes,
            env=env,
            times=times,
        )
        return await cls.create_on(default_connection(), body, cancel=cancel)

    @classmethod
    async def create_on(
        cls, connection: AsyncConnection, body: dict[str, Any], *, cancel: AsyncCancelEvent | None = None
    ) -> Self:
        """Create a sandbox over this connection from the body of the request."""
        call = Call(method="POST", path="/sandboxes", json=body, read_timeout=_wire.CREATE_SECONDS)
        answer = await connection.create(call, cancel=cancel)
        return cls.from_answer({"persistent": body.get("persistent", False), **answer}, connection)

    @classmethod
    async def list(cls) -> Sequence[Self]:
        """Every sandbox that the default client's key may see."""
        return await cls.list_on(default_connection())

    @classmethod
    async def list_on(cls, connection: AsyncConnection) -> Sequence[Self]:
        """Every sandbox that this connection's key may see."""
        answer = await connection.request(Call(method="GET", path="/sandboxes"))
        return [cls.from_answer(item, connection) for item in _wire.items_of(answer)]

    @classmethod
    async def get(cls, sandbox_id: str) -> Self:
        """The sandbox with this id, through the default client; NotFoundError when there is none."""
        return await cls.get_on(default_connection(), sandbox_id)

    @classmethod
    async def get_on(cls, connection: AsyncConnection, sandbox_id: str) -> Self:
        """The sandbox with this id; NotFoundError when there is none."""
        call = Call(method="GET", path=f"/sandboxes/{_wire.segment(sandbox_id)}")
        return cls.from_answer(await connection.request(call), connection)

    def to_dict(self) -> dict[str, Any]:
        """What the server last said, as plain values."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "_connection"}

    @property
    def filesystem(self) -> AsyncSandboxFilesystem:
        """Its files."""
        return AsyncSandboxFilesystem(self._connection, self.id)

    @property
    def files(self) -> AsyncSandboxFilesystem:
        """Its files: the same as `filesystem`."""
        return self.filesystem

    async def exec(
        self,
        cmd: Command,
        timeout_seconds: float | None = None,
        check: bool = False,
        **options: Unpack[ExecOptions],
    ) -> ExecResult:
        """Run a command and wait for it, however long it stays silent.

        A string is a line for the user's shell, a list a program and its arguments. At `timeout_seconds` the
        command is killed with all that it has started. `options` are those of `ExecOptions`: `cwd`, `env`,
        `user`, `stdin`, and `on_stdout` and `on_stderr`, which get the output as it comes.

        Errors: SandboxTimeout at the deadline; CommandFailed with `check` for another exit code than 0;
        ExecInterrupted when the connection broke and the outcome is unknown.

        Example: `sandbox.exec(["ls", "-l"], cwd="/workspace").stdout`
        """
        return await self.commands.run(cmd, timeout_seconds, check=check, **options)

    async def exec_stream(
        self,
        cmd: Command,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[CommandOptions],
    ) -> int:
        """Run a command, give its output to the callbacks as it comes, return its exit code. Errors as
        `exec`.
        """
        watched: ExecOptions = {**options, "on_stdout": on_stdout, "on_stderr": on_stderr}
        result = await self.exec(cmd, timeout_seconds, **watched)
        return result.exit_code

    async def run_code(
        self, code: str, language: str = "python", *, timeout_seconds: float | None = None
    ) -> ExecResult:
        """Run a piece of Python, JavaScript or shell in a fresh interpreter; else ValueError.

        For cells that build on each other, and for charts and tables as results: `create_code_context`.
        """
        command, stdin = _wire.code_command(code, language)
        return await self.exec(command, timeout_seconds, stdin=stdin)

    def terminal(
        self,
        rows: int = 24,
        columns: int = 80,
        *,
        cmd: str | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> AbstractAsyncContextManager[AsyncTerminal]:
        """An interactive terminal for a `with` block, which ends it; the user's shell unless `cmd` says
        another program. `terminals` has those that go on.
        """
        params = query(rows=rows, cols=columns, cmd=cmd, cwd=cwd, user=user)
        return open_terminal(self._connection, f"{self._path}/exec/pty", params)

    @property
    def terminals(self) -> AsyncTerminals:
        """Its terminals by name, which outlive whoever looks at them."""
        return AsyncTerminals(self._connection, self.id)

    async def logs(
        self, stream: str = "both", follow: bool = False, *, tail: int | None = None
    ) -> AsyncIterator[str]:
        """The lines of the machine's console; with `follow` also those to come, until the sandbox is gone."""
        params = query(stream=stream, follow=follow, tail=tail)
        call = Call(method="GET", path=f"{self._path}/logs", params=params)
        if not follow:
            text = await self._connection.fetch(call)
            for line in text.decode("utf-8", "replace").splitlines():
                yield line
            return
        async with self._connection.events(call) as records:
            async for record in records:
                if _wire.tells_of_end(record):
                    return
                if record.event != "open":
                    yield _wire.log_line(record.event, record.data)

    async def events(self, tail: int = 50, follow: bool = False) -> AsyncIterator[Event]:
        """The last `tail` events of its history, oldest first; with `follow` also those to come, until it is
        gone.
        """
        call = Call(method="GET", path=f"{self._path}/events", params=query(tail=tail, follow=follow or None))
        if not follow:
            answer = await self._connection.request(call) or {}
            for item in answer.get("events") or []:
                yield take(Event, item)
            return
        async with self._connection.events(call) as records:
            async for record in records:
                value = _wire.record_value(record)
                if record.event == "event":
                    event = take(Event, value)
                    yield event
                    if event.type == LAST_EVENT:
                        return

    async def metrics(self) -> Metrics:
        """Counters of its machine on the host: bytes, seconds, per cent of one processor."""
        return cast("Metrics", await self._verb("GET", "metrics"))

    async def delete(self) -> None:
        """Destroy it: the same as `kill`."""
        await self.kill()

    async def refresh(self) -> Self:
        """Ask the server for its current state and take it over."""
        self._take_over(await self.get_on(self._connection, self.id))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.persistent:
            return
        try:
            await self.kill()
        except NotFoundError:
            return  # gone already, which is what the end of the block is for
        except PandastackError as failure:
            if error is None:
                raise
            _log.warning("sandbox %s was left behind, its time to live will end it: %s", self.id, failure)
