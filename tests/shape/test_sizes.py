"""Files, functions and their arguments stay small enough to be read at once.

The allow-lists name what may be larger and why. They may only shrink: an entry that nothing needs any more
fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .checkout import FUNCTIONS, ROOT, Function, Source, everything, sources

FILE_LINES = 500
FUNCTION_LINES = 60
LONG_FUNCTION_LINES = 50
LONG_FUNCTIONS_SHARE = 0.02
POSITIONAL_PARAMETERS = 6
NESTING = 4

LONGER_FILES: dict[str, str] = {}

LONGER_FUNCTIONS: dict[str, str] = {}

MORE_PARAMETERS: dict[str, str] = {
    "src/pandastack/client/_async/client.py:AsyncSandboxAPI.create": "the official SDK's signature",
    "src/pandastack/client/_async/sandbox.py:AsyncSandbox.create": "the official SDK's signature",
    "src/pandastack/client/_sync/client.py:SandboxAPI.create": "the official SDK's signature",
    "src/pandastack/client/_sync/sandbox.py:Sandbox.create": "the official SDK's signature",
}

DEEPER: dict[str, str] = {}

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def all_functions() -> Iterator[tuple[str, Source, Function]]:
    for source in sources():
        for name, function in source.functions():
            yield f"{source.name}:{name}", source, function


def text_files() -> Iterator[Path]:
    """What is written by hand: programs and their headers."""
    python = {source.path for source in sources()}
    for path in everything():
        if path in python or path.suffix in {".c", ".h", ".sh", ".sql", ".toml"}:
            yield path


def disagreements(found: dict[str, int], allowed: dict[str, str]) -> list[str]:
    """What is too large and not allowed, and what is allowed and no longer too large."""
    unknown = [f"{name}: {size}" for name, size in found.items() if name not in allowed]
    return unknown + [f"{name} needs no exception any more" for name in allowed if name not in found]


def test_files_are_short() -> None:
    sizes = {
        path.relative_to(ROOT).as_posix(): path.read_bytes().count(b"\n")
        for path in text_files()
        if path.name != "uv.lock"
    }
    assert not disagreements({name: n for name, n in sizes.items() if n > FILE_LINES}, LONGER_FILES)


def test_functions_are_short() -> None:
    sizes = {name: lines(function) for name, _, function in all_functions()}
    assert not disagreements({name: n for name, n in sizes.items() if n > FUNCTION_LINES}, LONGER_FUNCTIONS)


def test_few_functions_are_longish() -> None:
    sizes = {name: lines(function) for name, _, function in all_functions()}
    longish = sorted(name for name, size in sizes.items() if size > LONG_FUNCTION_LINES)
    assert len(longish) <= LONG_FUNCTIONS_SHARE * len(sizes), longish


def is_called_by_name(function: Function) -> bool:
    """Whether nobody passes its arguments by position: they are fixtures, or options of a command line."""
    return function.name.startswith("test_") or any(
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in {"command", "callback"}
        for decorator in function.decorator_list
    )


def positional(function: Function) -> int:
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_functions_take_few_arguments_by_position() -> None:
    found = {
        name: positional(function)
        for name, _, function in all_functions()
        if positional(function) > POSITIONAL_PARAMETERS and not is_called_by_name(function)
    }
    assert not disagreements(found, MORE_PARAMETERS)


def depth(body: list[ast.stmt]) -> int:
    return max((_depth_of(statement) for statement in body), default=0)


def _depth_of(statement: ast.stmt) -> int:
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return 0
    if not isinstance(statement, BLOCKS):
        return 0
    inner = [depth(body) for body in _bodies(statement)]
    after = statement.orelse if isinstance(statement, ast.If) else []
    if len(after) == 1 and isinstance(after[0], ast.If):  # an elif goes no deeper than its if
        return max(1 + inner[0], _depth_of(after[0]))
    return 1 + max(inner, default=0)


def _bodies(statement: ast.stmt) -> list[list[ast.stmt]]:
    if isinstance(statement, ast.Match):
        return [case.body for case in statement.cases]
    names = ("body", "orelse", "finalbody")
    bodies = [getattr(statement, name) for name in names if getattr(statement, name, None)]
    return bodies + [handler.body for handler in getattr(statement, "handlers", [])]


def test_blocks_are_not_nested_deeply() -> None:
    depths = {name: depth(function.body) for name, _, function in all_functions()}
    assert not disagreements({name: n for name, n in depths.items() if n > NESTING}, DEEPER)


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a C file and their lines: from the signature to the brace at the margin."""
    began = 0
    signature = ""
    text = path.read_text("utf-8").splitlines()
    for number, line in enumerate(text):
        if line == "{":
            began, signature = number - 1, text[number - 1]
        elif line == "}" and signature:
            yield signature, number - began + 1
            signature = ""


def test_c_functions_are_short() -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {signature}": size
        for path in everything()
        if path.suffix == ".c"
        for signature, size in c_functions(path)
    }
    assert found, "no C function was found: has the layout changed?"
    assert not {name: size for name, size in found.items() if size > FUNCTION_LINES}
