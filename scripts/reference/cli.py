"""`docs/reference/cli.md`: every command with its arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from typer.main import get_command

from pandastack.cli.program import app
from reference.markdown import code, document, table

WORDS = """`pandastack` talks to a server (`--api`, else `PANDASTACK_API`, else the configuration file that
`pandastack up` wrote) with a key (`--token`, else `PANDASTACK_API_KEY`, else the same file). The options of
`pandastack` itself may stand anywhere before a command that is run elsewhere. Exit code 0 is success, 1 an
error with one sentence on standard error, 2 a wrong use; `run`, `sandbox exec` and `sandbox shell` exit with
the exit code of their command."""

NOT_OURS = {"install_completion", "show_completion"}


def page() -> str:
    """The whole page."""
    root: Any = get_command(app)
    parts = ["## `pandastack`", options(root)]
    for words, command in commands(root, ("pandastack",)):
        parts += [f"## `{' '.join(words)}`", inspect.cleandoc(command.help or ""), usage(words, command)]
        parts += [arguments(command), options(command)]
    return document("Command line", WORDS, *parts)


def commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401  # typer's own types have no public names
    """Every command that does something, with its words."""
    context = group.make_context(words[-1], [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def usage(words: tuple[str, ...], command: Any) -> str:  # noqa: ANN401  # the same
    """How it is called."""
    names = [display(each) for each in command.params if each.param_type_name == "argument"]
    has_options = any(is_option(each) for each in command.params)
    return f"```text\n{' '.join([*words, *(['[OPTIONS]'] if has_options else []), *names])}\n```"


def display(argument: Any) -> str:  # noqa: ANN401  # the same
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def arguments(command: Any) -> str:  # noqa: ANN401  # the same
    found = [each for each in command.params if each.param_type_name == "argument" and each.help]
    return table(("argument", ""), [(code(display(each)), each.help) for each in found])


def is_option(parameter: Any) -> bool:  # noqa: ANN401  # the same
    return parameter.param_type_name == "option" and parameter.name not in NOT_OURS


def options(command: Any) -> str:  # noqa: ANN401  # the same
    """A row an option."""
    found = [each for each in command.params if is_option(each)]
    rows = [(spelled(each), each.help or "", default(each)) for each in found]
    return table(("option", "", "default"), rows)


def spelled(option: Any) -> str:  # noqa: ANN401  # the same
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    names = [*option.opts, *option.secondary_opts]
    return ", ".join(code(f"{name}{value if name == names[0] else ''}") for name in names)


def default(option: Any) -> str:  # noqa: ANN401  # the same
    value = option.default
    if value is None or value is False or value == []:
        return ""
    if isinstance(value, Enum):
        return code(str(value.value))
    return code(str(value)) if isinstance(value, str | int | float | Path) else ""
