"""What a language server parses first, parsed once for all: the stubs of Python's own types, and of what is imported most."""

from __future__ import annotations

import jedi
from jedi.api.environment import InterpreterEnvironment

PROGRAM = """import os
import numpy as np
values = [1]
values.app
'text'.spl
os.pat
np.arr
"""


def complete_names() -> None:
    """Complete each name of it. What jedi has parsed then stays in its cache, which every program starts with."""
    for line, text in enumerate(PROGRAM.splitlines(), 1):
        if "." in text:
            jedi.Script(PROGRAM, environment=InterpreterEnvironment()).complete(line, len(text))
