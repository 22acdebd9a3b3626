"""The table of endpoints: one row each. The server routes by it and `/openapi.json` is made from it."""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import HTMLResponse

from pandastack.api import accounts, commands, files, history, openapi, sandboxes, sockets, status
from pandastack.api.backups import BACKUPS
from pandastack.api.calls import Api
from pandastack.api.code import CODE
from pandastack.api.contents import CONTENTS
from pandastack.api.egress import EGRESS
from pandastack.api.lsp import LSP
from pandastack.api.secrets import SECRETS
from pandastack.api.templates import TEMPLATES
from pandastack.api.terminals import TERMINALS
from pandastack.api.v1_ports import PORTS
from pandastack.api.v1_state import STATE
from pandastack.api.volumes import VOLUMES
from pandastack.endpoint import WEBSOCKET, Endpoint, Nothing
from pandastack.model.account import Scope
from pandastack.model.command import ExecRequest, ExecResult, Started, StartRequest
from pandastack.model.guest import ProcessInfo
from pandastack.model.sandbox import Lifecycle, LifecycleChange, Lineage, SandboxCreate, WhyAwake
from pandastack.services.accounts import NewToken
from pandastack.services.vitals import BootStats, SandboxMetrics

SSE = "text/event-stream"
TEXT = "text/plain"
OCTETS = files.OCTETS

ALL = "/v1/sandboxes"
ONE = "/v1/sandboxes/{sandbox_id}"


async def describe(call: Api[None, Nothing]) -> dict[str, object]:
    return openapi.document(ENDPOINTS, call.app.version)


async def page(call: Api[None, Nothing]) -> HTMLResponse:
    return HTMLResponse(openapi.page(ENDPOINTS, call.app.version))


def _tagged(tag: str, *endpoints: Endpoint) -> tuple[Endpoint, ...]:
    return tuple(replace(endpoint, tag=tag) for endpoint in endpoints)


READ, ADMIN, PUBLIC = Scope.READ, Scope.ADMIN, Scope.PUBLIC

ENDPOINTS: tuple[Endpoint, ...] = (
    *_tagged(
        "sandboxes",
        Endpoint(
            "POST",
            ALL,
            sandboxes.create,
            "Create a sandbox",
            body=SandboxCreate,
            answer=sandboxes.SandboxView,
            status=201,
            audited=True,
            patient=True,
        ),
        Endpoint(
            "GET",
            ALL,
            sandboxes.list_all,
            "List sandboxes",
            scope=READ,
            query=sandboxes.WhichOnes,
            answer=list[sandboxes.SandboxView],
        ),
        Endpoint(
            "GET",
            ONE,
            sandboxes.get,
            "Get a sandbox",
            scope=READ,
            query=sandboxes.WhichOne,
            answer=sandboxes.SandboxView,
        ),
        Endpoint("DELETE", ONE, sandboxes.delete, "Delete a sandbox", status=204, audited=True),
        Endpoint("POST", f"{ONE}/pause", sandboxes.pause, "Stop its virtual CPUs", status=204, audited=True),
        Endpoint(
            "POST", f"{ONE}/resume", sandboxes.resume, "Let its virtual CPUs run on", status=204, audited=True
        ),
        Endpoint(
            "GET",
            f"{ONE}/lifecycle",
            sandboxes.lifecycle,
            "How long it may idle, and does",
            scope=READ,
            answer=Lifecycle,
        ),
        Endpoint(
            "PATCH",
            f"{ONE}/lifecycle",
            sandboxes.change_lifecycle,
            "Change how long it may idle",
            body=LifecycleChange,
            answer=Lifecycle,
            audited=True,
        ),
        Endpoint(
            "GET",
            f"{ONE}/why-awake",
            sandboxes.why_awake,
            "What keeps it awake",
            scope=READ,
            answer=WhyAwake,
        ),
        Endpoint(
            "GET",
            f"{ONE}/tree",
            sandboxes.tree,
            "Where it comes from and what became of it",
            scope=READ,
            answer=Lineage,
        ),
        Endpoint(
            "POST",
            f"{ONE}/metadata",
            sandboxes.merge_metadata,
            "Set metadata keys, keeping the others",
            body=dict[str, str],
            answer=sandboxes.SandboxView,
            audited=True,
        ),
        Endpoint(
            "GET",
            f"{ONE}/metrics",
            sandboxes.metrics,
            "Counters of its machine and of its guest",
            scope=READ,
            answer=SandboxMetrics,
        ),
    ),
    *_tagged("state", *STATE),
    *_tagged("code", *CODE, *LSP),
    *_tagged("network", *EGRESS, *SECRETS),
    *_tagged(
        "commands",
        Endpoint(
            "POST",
            f"{ONE}/exec",
            commands.run,
            "Run a command to its end",
            body=ExecRequest,
            body_limit="max_stdin_bytes",
            answer=ExecResult,
            patient=True,
        ),
        Endpoint(
            "POST",
            f"{ONE}/exec/stream",
            commands.stream,
            "Run a command and stream its output",
            body=ExecRequest,
            body_limit="max_stdin_bytes",
            media=SSE,
        ),
        Endpoint(WEBSOCKET, f"{ONE}/exec/ws", sockets.commands, "Run many commands over one WebSocket"),
        Endpoint(WEBSOCKET, f"{ONE}/exec/pty", sockets.terminal, "A terminal", query=sockets.Size),
        Endpoint(
            WEBSOCKET, f"{ONE}/ssh", sockets.terminal, "A terminal, by its older name", query=sockets.Size
        ),
        Endpoint(
            "GET",
            f"{ONE}/processes",
            commands.processes,
            "List background processes",
            answer=list[ProcessInfo],
        ),
        Endpoint(
            "POST",
            f"{ONE}/processes",
            commands.start,
            "Start a background process",
            body=StartRequest,
            answer=Started,
            status=201,
        ),
        Endpoint(
            "GET",
            f"{ONE}/processes/{{process_id}}",
            commands.process,
            "Get a process, or wait for its end",
            query=commands.Wait,
            answer=ProcessInfo,
            patient=True,
        ),
        Endpoint(
            "POST",
            f"{ONE}/processes/{{process_id}}/stdin",
            commands.feed,
            "Write to the stdin of a process",
            query=commands.Feed,
            raw_body=True,
            status=204,
        ),
        Endpoint(
            "GET",
            f"{ONE}/processes/{{process_id}}/stream",
            commands.attach,
            "Stream a process, its last output first",
            media=SSE,
        ),
        Endpoint(
            "POST",
            f"{ONE}/processes/{{process_id}}/signal",
            commands.send_signal,
            "Signal a process group",
            body=commands.Signal,
            status=204,
        ),
        Endpoint(
            "DELETE", f"{ONE}/processes/{{process_id}}", commands.kill, "Kill a process group", status=204
        ),
    ),
    *_tagged("terminals", *TERMINALS),
    *_tagged(
        "files",
        Endpoint("GET", f"{ONE}/fs", files.read, "Read a file", query=files.At, media=OCTETS),
        Endpoint("HEAD", f"{ONE}/fs", files.head, "A file's size", query=files.At, media=OCTETS),
        Endpoint(
            "PUT",
            f"{ONE}/fs",
            files.write,
            "Write a file and its missing parents",
            query=files.WriteAt,
            raw_body=True,
            answer=files.Written,
        ),
        Endpoint(
            "DELETE",
            f"{ONE}/fs",
            files.remove,
            "Remove a path and all below it",
            query=files.RemoveAt,
            status=204,
        ),
        Endpoint(
            "GET",
            f"{ONE}/fs/dir",
            files.list_directory,
            "List a directory",
            query=files.ListAt,
            answer=files.Listing,
        ),
        Endpoint(
            "GET", f"{ONE}/fs/stat", files.stat, "What a path is", query=files.StatAt, answer=files.Entry
        ),
        Endpoint(
            "GET",
            f"{ONE}/fs/watch",
            files.watch,
            "Stream changes below a path",
            query=files.WatchAt,
            media=SSE,
        ),
        Endpoint(
            "POST",
            f"{ONE}/fs/mkdir",
            files.make_directory,
            "Make a directory",
            body=files.MakeDirectory,
            answer=files.Entry,
            status=201,
        ),
        Endpoint("POST", f"{ONE}/fs/move", files.move, "Rename a path", body=files.Move, status=204),
        Endpoint(
            "POST", f"{ONE}/fs/chmod", files.change_mode, "Set permissions", body=files.ChangeMode, status=204
        ),
    ),
    *_tagged("ports", *PORTS),
    *_tagged("volumes", *VOLUMES, *CONTENTS, *BACKUPS),
    *_tagged(
        "history",
        Endpoint(
            "GET",
            f"{ONE}/logs",
            history.logs,
            "The console of a sandbox",
            scope=READ,
            query=history.WhichLog,
            media=TEXT,
        ),
        Endpoint(
            "GET",
            f"{ONE}/events",
            history.events,
            "What happened to a sandbox",
            scope=READ,
            query=history.WhichEvents,
            answer=history.EventList,
        ),
        Endpoint(
            "GET",
            "/v1/stats/boot",
            history.boots,
            "How fast sandboxes came up",
            scope=READ,
            query=history.WhichBoots,
            answer=BootStats,
        ),
        Endpoint(
            "GET",
            "/v1/audit",
            history.audit,
            "Who changed what",
            scope=READ,
            query=history.WhichAudit,
            answer=history.AuditList,
        ),
    ),
    *_tagged("templates", *TEMPLATES),
    *_tagged(
        "account",
        Endpoint("GET", "/v1/me", accounts.me, "Who asks", scope=READ, answer=accounts.Me),
        Endpoint(
            "GET",
            "/v1/me/tokens",
            accounts.list_tokens,
            "List tokens",
            scope=ADMIN,
            answer=accounts.TokenList,
        ),
        Endpoint(
            "POST",
            "/v1/me/tokens",
            accounts.create_token,
            "Make a token, shown this once",
            scope=ADMIN,
            body=accounts.TokenRequest,
            answer=NewToken,
            audited=True,
        ),
        Endpoint(
            "DELETE",
            "/v1/me/tokens/{prefix}",
            accounts.revoke_token,
            "Revoke a token",
            scope=ADMIN,
            status=204,
            audited=True,
        ),
        Endpoint(
            "GET",
            "/v1/quotas",
            accounts.quotas,
            "What the workspace may hold, and holds",
            scope=READ,
            answer=accounts.Quotas,
        ),
    ),
    *_tagged(
        "server",
        Endpoint(
            "GET",
            "/v1/capabilities",
            status.capabilities,
            "What this server can do",
            scope=READ,
            answer=status.Capabilities,
        ),
        Endpoint(
            "GET", "/v1/version", status.version, "Which program answers", scope=READ, answer=status.Version
        ),
        Endpoint(
            "GET", "/healthz", status.health, "Whether the server works", scope=PUBLIC, answer=status.Health
        ),
        Endpoint(
            "GET",
            "/version",
            status.version,
            "Which program answers, without a key",
            scope=PUBLIC,
            answer=status.Version,
        ),
        Endpoint(
            "GET",
            "/metrics",
            status.metrics,
            "Figures in the Prometheus text format",
            scope=PUBLIC,
            media=TEXT,
        ),
        Endpoint("GET", "/openapi.json", describe, "This table for programs", scope=PUBLIC),
        Endpoint("GET", "/docs", page, "This table for people", scope=PUBLIC, media="text/html"),
    ),
)
