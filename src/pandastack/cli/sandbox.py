"""`pandastack sandbox`: one command a verb of the SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

import pandastack
from pandastack.cli import copy, egress, fork, lifecycle, shell, timeline
from pandastack.cli.egress import Allow, Bandwidth, Deny, Internet, Ports, policy_of
from pandastack.cli.lifecycle import DiskOnly, IdleTimeout, Lifetime, OnTimeout, times_of
from pandastack.cli.run import GREEDY, attached, standard_input
from pandastack.cli.secrets import Secrets, secrets_of
from pandastack.cli.session import SandboxId, age, pairs, plain, session_of, summary
from pandastack.cli.volume import Volumes, wishes_of

if TYPE_CHECKING:
    from pandastack import CreateOptions

Cpu = Annotated[int | None, typer.Option("--cpu", help="Processors; else the template's.")]
Memory = Annotated[int | None, typer.Option("--memory", metavar="MIB", help="Else the template's.")]
Disk = Annotated[int | None, typer.Option("--disk", metavar="GIB", help="Else the template's.")]
Keep = Annotated[
    int | None, typer.Option("--keep-checkpoints", metavar="N", min=1, max=200, help="So many; else 20.")
]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Create, use and destroy sandboxes.")
app.add_typer(lifecycle.app)
app.add_typer(fork.app)
app.add_typer(timeline.app)
app.add_typer(egress.app)
app.add_typer(shell.app)


@app.command()
def create(  # noqa: PLR0913  # each is an option of the command line
    ctx: typer.Context,
    template: Annotated[str, typer.Option("--template", "-t", help="Made from this.")] = "code-interpreter",
    from_snapshot: Annotated[
        str | None, typer.Option("--from-snapshot", metavar="SNAPSHOT", help="Go on from this instead.")
    ] = None,
    disk_only: DiskOnly = False,
    ttl: Annotated[int | None, typer.Option(help="Seconds it may idle.")] = None,
    persistent: Annotated[bool, typer.Option("--persistent", help="Never end it for idling.")] = False,
    on_timeout: OnTimeout = None,
    idle_timeout: IdleTimeout = None,
    lifetime: Lifetime = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Keep its state behind each command: `sandbox timeline`.")
    ] = False,
    keep: Keep = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="For every command in it.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Noted beside it.")
    ] = None,
    internet: Internet = None,
    allow: Allow = None,
    deny: Deny = None,
    port: Ports = None,
    bandwidth: Bandwidth = None,
    secret: Secrets = None,
    volume: Volumes = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Disk = None,
) -> None:
    """Create a sandbox and print its id."""
    session = session_of(ctx)
    given: dict[str, object] = {
        "disk_only": disk_only or None,
        "checkpoints": "exec" if checkpoints else None,
        "keep_checkpoints": keep,
        "egress": policy_of(internet, allow, deny, port, bandwidth) or None,
        "secrets": secrets_of(secret) or None,
        "disk_gb": disk,
    }
    given |= times_of(on_timeout, idle_timeout, lifetime)
    options = cast("CreateOptions", {name: each for name, each in given.items() if each is not None})
    made = session.client().sandboxes.create(
        template,
        cpu,
        memory,
        ttl_seconds=ttl,
        persistent=persistent,
        from_snapshot=from_snapshot,
        env=pairs(env or [], "--env"),
        metadata=pairs(metadata or [], "--metadata"),
        volumes=wishes_of(volume),
        **options,
    )
    typer.echo(summary(made), err=True)
    session.show(made.to_dict(), made.id)


@app.command("ls")
def list_all(ctx: typer.Context) -> None:
    """List the sandboxes."""
    session = session_of(ctx)
    found = session.client().sandboxes.list()
    rows = [
        (each.id, each.template, each.status, age(each.created_at), f"{each.boot_ms or 0} ms", size_of(each))
        for each in found
    ]
    session.table(
        [each.to_dict() for each in found], ("ID", "TEMPLATE", "STATUS", "AGE", "BOOT", "SIZE"), rows
    )


@app.command()
def get(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Show everything about a sandbox."""
    session = session_of(ctx)
    session.fields(session.sandbox(sandbox_id).to_dict())


@app.command("rm")
def remove(
    ctx: typer.Context,
    sandbox_ids: Annotated[list[str] | None, typer.Argument(metavar="ID...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
) -> None:
    """Destroy sandboxes."""
    client = session_of(ctx).client()
    if everything == bool(sandbox_ids):
        raise typer.BadParameter("Name the sandboxes, or say --all.")
    for each in sandbox_ids or [found.id for found in client.sandboxes.list()]:
        client.sandboxes.delete(each)
        typer.echo(each)


@app.command("exec", context_settings=GREEDY)
def execute(  # each is an option of the command line
    ctx: typer.Context,
    sandbox_id: SandboxId,
    command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND...")],
    timeout: Annotated[float | None, typer.Option(help="Seconds until it is killed.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="Its environment.")
    ] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="Its directory.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Its user; root by default.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it what comes in here.")] = False,
) -> None:
    """Run a command in a sandbox and exit with its exit code."""
    sandbox = session_of(ctx).sandbox(sandbox_id)
    given = standard_input() if stdin else None
    environment = pairs(env or [], "--env")
    code = attached(sandbox, words_of(command), timeout, cwd=cwd, env=environment, user=user, stdin=given)
    raise typer.Exit(code)


@app.command("cp")
def copy_files(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A path, or ID:/path.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A path, or ID:/path.")],
) -> None:
    """Copy a file or directory into a sandbox or out of it."""
    session = session_of(ctx)
    copy.between(lambda sandbox_id: session.sandbox(sandbox_id).files, source, target)


@app.command()
def logs(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", help="Only so many last lines.")] = None,
) -> None:
    """Print the console of a sandbox."""
    silent = True
    for line in session_of(ctx).sandbox(sandbox_id).logs(follow=follow, tail=tail):
        typer.echo(line)
        silent = False
    if silent:
        typer.echo("Its console is silent: the output of commands goes to whoever runs them.", err=True)


@app.command()
def events(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", help="So many of the last.")] = 50,
) -> None:
    """Print the history of a sandbox, also of one that is gone."""
    session = session_of(ctx)
    gone = pandastack.Sandbox.from_dict({"id": sandbox_id}, session.client())
    for event in gone.events(tail=tail, follow=follow):
        session.show(event, f"{event.time}  {event.type}  {plain(event.payload or {})}".rstrip())


@app.command()
def metrics(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Print what a sandbox's machine uses on its host."""
    session = session_of(ctx)
    session.fields(session.sandbox(sandbox_id).metrics())


def words_of(command: list[str]) -> list[str]:
    """The command without the `--` that may stand before it; a usage error when an option is in its place."""
    if command[:1] == ["--"]:
        return command[1:]
    if command[0].startswith("-"):
        raise typer.BadParameter(
            f"{command[0]} stands behind the ID, where the command begins: move it before."
        )
    return command


def size_of(sandbox: pandastack.Sandbox) -> str:
    """Processors and memory."""
    return f"{sandbox.cpu} cpu, {sandbox.memory_mb} MiB"
