"""The commands of `pandastack`. Each one's module is loaded when it is used, so that all start fast."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NamedTuple

import typer
from typer._completion_classes import completion_init
from typer.core import TyperGroup
from typer.main import get_command

import pandastack
from pandastack.cli.session import Session, advise
from pandastack.config import ADMIN_FOLDERS
from pandastack.errors import NotIsolated, PandastackError

Typers = Any
"""A context or command of typer's, whose classes have no public names."""


class Place(NamedTuple):
    """Where a command lives: a module's whole `app`, or one command of it."""

    module: str
    is_noun: bool = False


COMMANDS = {
    "run": Place("run"),
    "sandbox": Place("sandbox", is_noun=True),
    "snapshot": Place("snapshot", is_noun=True),
    "secrets": Place("secrets", is_noun=True),
    "volume": Place("volume", is_noun=True),
    "code": Place("code"),
    "repl": Place("repl"),
    "lsp": Place("lsp"),
    "ports": Place("ports"),
    "preview": Place("ports"),
    "forward": Place("forward"),
    "browser": Place("browser"),
    "dev": Place("dev", is_noun=True),
    "ssh": Place("ssh"),
    "shell": Place("shell"),
    "terminal": Place("terminal", is_noun=True),
    "tree": Place("tree"),
    "diff": Place("diff"),
    "template": Place("template", is_noun=True),
    "cache": Place("cache", is_noun=True),
    "token": Place("token", is_noun=True),
    "up": Place("serve"),
    "down": Place("serve"),
    "setup": Place("setup"),
    "doctor": Place("doctor"),
    "fsck": Place("fsck"),
    "completion": Place("completion"),
    "version": Place("version"),
}

GLOBAL_OPTIONS = {"--json": 0, "--api": 1, "--token": 1}
"""Options of the program itself, and how many words follow each."""

FOREIGN = ("run", "exec", "--")
"""From these words on, options belong to somebody else's command."""

MISCONFIGURED = 78
"""EX_CONFIG of sysexits.h: starting again changes nothing."""


class Commands(TyperGroup):
    """The table above as a command group; an error of ours or of this machine ends it with one sentence."""

    def list_commands(self, ctx: Typers) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Typers, cmd_name: str) -> Typers:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Typers, args: list[str]) -> Typers:
        if args[0] not in COMMANDS:
            for name in COMMANDS:  # what is meant is guessed from the names that are loaded
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Typers) -> Typers:
        try:
            return super().invoke(ctx)
        except PandastackError as error:
            typer.echo(f"pandastack: {advise(error)}", err=True)
            raise typer.Exit(MISCONFIGURED if isinstance(error, NotIsolated) else 1) from error
        except BrokenPipeError as error:
            sys.stderr.close()  # the reader of our output is gone: nobody is left to be told
            raise typer.Exit(141) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"pandastack: {where}{error.strerror or error}.", err=True)
            raise typer.Exit(1) from error


def _load(name: str) -> Typers:
    place = COMMANDS[name]
    loaded: Typers = get_command(import_module(f"pandastack.cli.{place.module}").app)
    if place.is_noun:
        loaded.name = name
        return loaded
    return getattr(loaded, "commands", {}).get(name, loaded)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Disposable microVMs for code that nobody trusts.",
    epilog="Start here: `pandastack up` in one terminal, `pandastack run -- uname -a` in another.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pandastack {pandastack.__version__}")
        raise typer.Exit


@app.callback()
def program(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    api: Annotated[str | None, typer.Option("--api", help="The server, e.g. http://127.0.0.1:8080.")] = None,
    token: Annotated[str | None, typer.Option("--token", help="The API key.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Note the options that every command shares."""
    ctx.obj = Session(json=json, api=api, token=token)


def hoisted(words: list[str]) -> list[str]:
    """The same words, the program's own options first: they may stand anywhere before a foreign command."""
    front: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting and waiting[0] not in FOREIGN:
        word = waiting.pop(0)
        name = word.partition("=")[0]
        if name not in GLOBAL_OPTIONS:
            rest.append(word)
            continue
        following = 0 if "=" in word else GLOBAL_OPTIONS[name]
        front += [word, *waiting[:following]]
        del waiting[:following]
    return front + rest + waiting


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that every `with` block destroys what it made."""
    raise KeyboardInterrupt


def start(words: list[str]) -> None:
    """Run the program with these arguments; ends the process."""
    completion_init()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *ADMIN_FOLDERS))
    app(args=hoisted(words), prog_name="pandastack")
