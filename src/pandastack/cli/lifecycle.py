"""`pandastack sandbox …`: the verbs about a sandbox's time."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pandastack import TimeOptions
from pandastack.cli.session import SandboxId, Session, console, session_of

if TYPE_CHECKING:
    from pandastack import LifecycleOptions

app = typer.Typer(add_completion=False)


class Timeout(StrEnum):
    """What becomes of a sandbox at the end of its time."""

    KILL = "kill"
    HIBERNATE = "hibernate"


OnTimeout = Annotated[
    Timeout | None, typer.Option(metavar="kill|hibernate", help="What happens at the end of its time.")
]
IdleTimeout = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="A persistent one hibernates, idle so long; 0: never.")
]
Lifetime = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="So long it may be awake in all, used or not; 0: ever.")
]


DiskOnly = Annotated[
    bool, typer.Option("--disk-only", help="Boot with the disk of that state, without what was in memory.")
]


def times_of(on_timeout: Timeout | None, idle_timeout: int | None, lifetime: int | None) -> TimeOptions:
    """The options that were given; 0 takes a limit away."""
    times: TimeOptions = {}
    if on_timeout is not None:
        times["on_timeout"] = on_timeout.value
    if idle_timeout is not None:
        times["idle_timeout_seconds"] = idle_timeout or None
    if lifetime is not None:
        times["lifetime_seconds"] = lifetime or None
    return times


def done(session: Session, sandbox_id: str, status: str) -> None:
    """Say what became of a sandbox: nothing to a person, who asked for just that."""
    if session.json:
        session.show({"id": sandbox_id, "status": status}, "")


@app.command()
def pause(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Stop the processors of a sandbox."""
    session = session_of(ctx)
    session.named(sandbox_id).pause()
    done(session, sandbox_id, "paused")


@app.command()
def resume(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Let a paused sandbox go on."""
    session = session_of(ctx)
    session.named(sandbox_id).resume()
    done(session, sandbox_id, "running")


@app.command()
def hibernate(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Write a sandbox's memory and disk down and end its machine; the next use wakes it."""
    session = session_of(ctx)
    with console(stderr=True).status("hibernating"):
        session.named(sandbox_id).hibernate()
    done(session, sandbox_id, "hibernated")


@app.command()
def wake(ctx: typer.Context, sandbox_id: SandboxId, disk_only: DiskOnly = False) -> None:
    """Wake a hibernated sandbox before it is used."""
    session = session_of(ctx)
    with console(stderr=True).status("waking"):
        session.named(sandbox_id).wake(disk_only=disk_only)
    done(session, sandbox_id, "running")


@app.command("why-awake")
def why_awake(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Tell what keeps a sandbox up, and when it would sleep or end if nothing did."""
    session = session_of(ctx)
    told = session.named(sandbox_id).why_awake()
    rows = [(each["kind"], each.get("since") or "", each["detail"]) for each in told["reasons"]]
    if session.json:
        session.show(told, "")
        return
    left = told.get("sleeps_in_seconds")
    ends = "" if left is None else f", {left} s until the end of its time"
    typer.echo(f"{told['status']}, idle for {told['idle_seconds']} s{ends}")
    if rows:
        session.table(told["reasons"], ("REASON", "SINCE", "DETAIL"), rows)


@app.command()
def ttl(  # noqa: PLR0913  # each is an option of the command line
    ctx: typer.Context,
    sandbox_id: SandboxId,
    seconds: Annotated[int | None, typer.Argument(help="Let it idle this long from now on.")] = None,
    on_timeout: OnTimeout = None,
    idle_timeout: IdleTimeout = None,
    lifetime: Lifetime = None,
    persistent: Annotated[
        bool | None, typer.Option("--persistent/--no-persistent", help="Never end it for idling.")
    ] = None,
    checkpoints: Annotated[
        bool | None,
        typer.Option("--checkpoints/--no-checkpoints", help="Keep its state behind each command."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep-checkpoints", metavar="N", min=1, max=200, help="So many.")
    ] = None,
) -> None:
    """Show how long a sandbox may idle and live and what is kept of it by itself, or change that."""
    session = session_of(ctx)
    sandbox = session.named(sandbox_id)
    changes = cast("LifecycleOptions", times_of(on_timeout, idle_timeout, lifetime))
    if seconds is not None:
        changes["ttl_seconds"] = seconds
    if persistent is not None:
        changes["persistent"] = persistent
    if checkpoints is not None:
        changes["checkpoints"] = "exec" if checkpoints else "off"
    if keep is not None:
        changes["keep_checkpoints"] = keep
    session.fields(sandbox.set_lifecycle(**changes) if changes else sandbox.lifecycle())
