"""The files of this checkout, read as the rules want them: as text, as syntax trees, as C."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "pandastack"

MADE_BY_OTHERS = frozenset(
    {"__pycache__", "_bundle", "build", "dist", "node_modules", "test-results", "vendored"}
)
"""Directories that hold no source of ours: what tools have left, and what others have published."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """One Python file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path below the root of the checkout."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @cached_property
    def comments(self) -> dict[int, str]:
        """The comment of each line that has one."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Every function with its dotted name, methods and inner ones too."""
        yield from _functions(self.tree, "")

    def at(self, node: ast.stmt | ast.expr | ast.ExceptHandler, what: str) -> str:
        """A finding, as an editor can jump to it."""
        return f"{self.name}:{node.lineno}: {what}"


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            yield f"{prefix}{child.name}", child
        name = f"{prefix}{child.name}." if isinstance(child, (*FUNCTIONS, ast.ClassDef)) else prefix
        yield from _functions(child, name)


@lru_cache
def everything() -> tuple[Path, ...]:
    """Every file that belongs to the project."""
    return tuple(sorted(_below(ROOT)))


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_file() and (not path.name.startswith(".") or path.name == ".gitignore"):
            yield path
        elif path.is_dir() and _is_ours(path):
            yield from _below(path)


def _is_ours(folder: Path) -> bool:
    if folder.name.startswith("."):
        return folder.name == ".ci"
    return folder.name not in MADE_BY_OTHERS and not folder.name.endswith(".egg-info")


@lru_cache
def sources(below: Path = ROOT) -> tuple[Source, ...]:
    """Every Python file below a directory, scripts without a suffix included."""
    return tuple(Source(path) for path in everything() if path.is_relative_to(below) and _is_python(path))


def _is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        return re.match(rb"#!.*\bpython", file.readline()) is not None


def dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""
