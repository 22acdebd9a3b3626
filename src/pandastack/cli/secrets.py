"""`pandastack secrets`: values that a sandbox uses and never has. None is an argument of a command."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack.cli.session import SandboxId, pairs, session_of

if TYPE_CHECKING:
    from pandastack import NewSecret

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Values that a sandbox uses and never has."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The variable that stands for it.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME=HOST[,HOST]",
        help="Put the value of this variable of yours into its requests to these hosts; again for more.",
    ),
]


@app.command("set")
def set_one(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    name: Name,
    host: Annotated[list[str], typer.Option("--host", metavar="HOST", help="Bound to this; again for more.")],
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="HEADER", help="Only in this; again for more.")
    ] = None,
    from_env: Annotated[
        str | None, typer.Option("--from-env", metavar="VAR", help="The value of this variable of yours.")
    ] = None,
) -> None:
    """Set a secret, or set it anew. Its value is read from standard input."""
    value = _asked(name) if from_env is None else _of(from_env)
    session = session_of(ctx)
    made = session.named(sandbox_id).set_secret(name, value, host, headers=header or [])
    session.show(made, made["placeholder"])


@app.command("list")
def list_all(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """List the secrets of a sandbox, without their values."""
    session = session_of(ctx)
    found = session.named(sandbox_id).secrets()
    rows = [(each["name"], ", ".join(each["hosts"]), each["placeholder"]) for each in found]
    session.table(found, ("NAME", "HOSTS", "PLACEHOLDER"), rows)


@app.command("rm")
def remove(ctx: typer.Context, sandbox_id: SandboxId, name: Name) -> None:
    """Remove a secret: the next request does not carry it any more."""
    session_of(ctx).named(sandbox_id).remove_secret(name)


def secrets_of(options: list[str] | None) -> dict[str, NewSecret]:
    """What `--secret` says, with the values of this program's environment."""
    found = pairs(options or [], "--secret")
    return {name: {"value": _of(name), "hosts": hosts.split(",")} for name, hosts in found.items()}


def _of(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise typer.BadParameter(f"the variable {variable} is not set here.")
    return value


def _asked(name: str) -> str:
    """From a terminal unseen, else all of standard input, without the end of its line."""
    if sys.stdin.isatty():
        return str(typer.prompt(f"Value of {name}", hide_input=True, err=True))
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")
