"""`pandastack dev`: a machine to develop on, with an editor in the browser and a home that stays."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack.cli.progress import reporting
from pandastack.cli.session import age, console, session_of
from pandastack.cli.ssh import ssh as connect

if TYPE_CHECKING:
    from pandastack import Sandbox
    from pandastack.cli.session import Session

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="A machine to develop on, asleep when idle."
)

USER = "dev"
MARK = "dev_machine"

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="The machine; one is called `dev`.")]


@app.command()
def up(  # noqa: PLR0913  # each is an option of the command line
    ctx: typer.Context,
    name: Name = "dev",
    dotfiles: Annotated[
        str | None, typer.Option(metavar="GIT_URL", help="Cloned, or brought up to date, and installed.")
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the editor here.")] = False,
    ttl: Annotated[int, typer.Option(metavar="SECONDS", help="How long the editor's link is good.")] = 43_200,
    idle_timeout: Annotated[
        int, typer.Option(metavar="SECONDS", help="Idle so long, a new machine sleeps; 0: never.")
    ] = 900,
    home: Annotated[int, typer.Option("--home-size", metavar="MIB", help="Of a new home.")] = 8192,
    cpu: Annotated[int | None, typer.Option("--cpu", help="Of a new machine; else the template's.")] = None,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MIB", help="Of a new machine; else the template's.")
    ] = None,
) -> None:
    """Make the machine, or wake it, and print the ways to it: the editor's link, and the line for SSH.

    Whoever has the link has the machine until the link expires. It goes to sleep by itself, with all that
    runs in it, and whoever comes wakes it.
    """
    session = session_of(ctx)
    machines = session.client().dev
    with reporting(console(stderr=True)) as steps:
        machine = machines.up(
            name,
            size=(cpu, memory),
            home_mb=home,
            idle_timeout_seconds=idle_timeout,
            dotfiles=dotfiles,
            on_step=lambda what: steps(f"{name}: {what}", None),
        )
        url = machines.editor_url(name, ttl_seconds=ttl)
    line = f"pandastack ssh --user {USER} {machine.id}"
    session.show(
        {"name": name, "id": machine.id, "status": machine.status, "editor_url": url, "ssh": line},
        f"editor  {url}\nssh     {line}",
    )
    if browse and not webbrowser.open(url):
        typer.echo("No browser of this machine can be opened: use the editor's link.", err=True)


@app.command()
def down(ctx: typer.Context, name: Name = "dev") -> None:
    """Have the machine sleep now, with all that runs in it; whoever comes wakes it."""
    session = session_of(ctx)
    with console(stderr=True).status("hibernating"):
        machine = session.client().dev.down(name)
    if session.json:
        session.show({"name": name, "id": machine.id, "status": "hibernated"}, "")


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List the machines."""
    session = session_of(ctx)
    found = session.client().dev.list()
    rows = [(each.metadata[MARK], each.id, each.status, age(each.created_at)) for each in found]
    session.table([_told(each) for each in found], ("NAME", "ID", "STATUS", "AGE"), rows)


@app.command()
def status(ctx: typer.Context, name: Name = "dev") -> None:
    """Tell how the machine is, and what keeps it awake. Asking does not wake it."""
    session = session_of(ctx)
    machine = session.client().dev.get(name)
    awake = machine.why_awake()
    told = _told(machine) | {
        "idle_seconds": awake["idle_seconds"],
        "sleeps_in_seconds": awake.get("sleeps_in_seconds"),
        "awake_for": [reason["detail"] for reason in awake["reasons"]],
    }
    session.fields(told)


@app.command()
def ssh(
    ctx: typer.Context,
    name: Name = "dev",
    command: Annotated[
        list[str] | None, typer.Argument(help="Run instead of a shell, behind `--`; as for `pandastack ssh`.")
    ] = None,
    config: Annotated[bool, typer.Option("--config", help="Print what `~/.ssh/config` needs.")] = False,
) -> None:
    """Connect to the machine by SSH; it is woken for it."""
    machine = session_of(ctx).client().dev.get(name)
    connect(ctx, machine.id, command, user=USER, config=config)


@app.command()
def delete(
    ctx: typer.Context,
    name: Name = "dev",
    home: Annotated[
        bool, typer.Option("--home", help="Remove its home, too: all that is in it is gone.")
    ] = False,
) -> None:
    """End the machine. Its home stays, and is that of the next one of this name."""
    session: Session = session_of(ctx)
    session.client().dev.delete(name, home=home)
    if session.json:
        session.show({"name": name, "home": "deleted" if home else "kept"}, "")


def _told(machine: Sandbox) -> dict[str, object]:
    return {"name": machine.metadata[MARK], "id": machine.id, "status": machine.status}
