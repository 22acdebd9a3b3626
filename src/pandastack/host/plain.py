"""Command lines that need no shell: plain words, the first of them a program.

A shell that is given `python3 /workspace/cell.py` does nothing but split it and become that program; under
software emulation its own start costs 20 ms warm and 100 ms after a restore. So such a line is split here.
Whatever a shell would treat in any way of its own (quotes, variables, globs, operators, assignments, built-in
commands) goes to the shell.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_@%+:,./=-]+( +[A-Za-z0-9_@%+:,./=-]+)*")

_OF_THE_SHELL = frozenset(
    [
        ".", ":", "[", "alias", "bg", "bind", "break", "builtin", "caller", "case", "cd", "command",
        "compgen", "complete", "compopt", "continue", "coproc", "declare", "dirs", "disown", "do",
        "done", "echo", "elif", "else", "enable", "esac", "eval", "exec", "exit", "export", "false",
        "fc", "fg", "fi", "for", "function", "getopts", "hash", "help", "history", "if", "in", "jobs",
        "kill", "let", "local", "logout", "mapfile", "popd", "printf", "pushd", "pwd", "read",
        "readarray", "readonly", "return", "select", "set", "shift", "shopt", "source", "suspend",
        "test", "then", "time", "times", "trap", "true", "type", "typeset", "ulimit", "umask",
        "unalias", "unset", "until", "wait", "while",
    ]
)  # fmt: skip
"""Built-in commands and reserved words of bash; of a plain shell a subset."""


def words_of(line: str) -> tuple[str, ...] | None:
    """The words of a line that any shell would run as a program with arguments, or None."""
    if not _PLAIN.fullmatch(line):
        return None
    words = tuple(line.split(" ")) if "  " not in line else tuple(line.split())
    first = words[0]
    return None if "=" in first or first in _OF_THE_SHELL else words
