"""`pandastack completion`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_shared import get_completion_script

app = typer.Typer()


class Shell(StrEnum):
    """Shells that completion is made for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")] = Shell.BASH) -> None:
    """Print the script that teaches a shell to complete: `source <(pandastack completion bash)`."""
    script = get_completion_script(
        prog_name="pandastack", complete_var="_PANDASTACK_COMPLETE", shell=shell.value
    )
    typer.echo(script)
