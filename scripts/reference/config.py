"""`docs/reference/config.md`: every setting, read from the source so that no machine's values come in."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from enum import StrEnum
from types import ModuleType

from pandastack import config
from pandastack.config import PREFIX, TABLES
from reference.markdown import code, document, table, words_of

WORDS = f"""A setting is taken from the command line, else from the environment (`{PREFIX}` and the name in
capitals), else from the TOML file that `--config` names (one table a program), else it is the default. A name
that does not exist is an error that names the nearest one. Sizes are bytes, times are seconds. The state
directory of `pandastack up`, `down` and `doctor` is told by `--state`.

```toml
[control]
listen = "127.0.0.1:8080"
default_ttl_seconds = 600

[host]
cache_dir = "~/.cache/pandastack"
```"""

CLIENT_WORDS = f"""## What the SDK and the command line read

| where | | |
|---|---|---|
| `{PREFIX}API` | the server's address | else `api_url` of the file, else `http://127.0.0.1:8080` |
| `{PREFIX}API_KEY` | the key | else `token` of the file |
| `{PREFIX}MAX_CREATE_RETRY_SECONDS` | how long a create is tried again while the server has no room | 60 |
| `~/.config/pandastack/config.json` | `api_url` and `token`, written by the first `pandastack up` | |"""


def page() -> str:
    """The whole page."""
    parts = []
    for kind, name in TABLES.items():
        if name != "client":  # the SDK finds its server by itself, see below
            parts += [f"## `[{name}]`", words_of(kind), settings(kind)]
    return document("Configuration", WORDS, *parts, CLIENT_WORDS, choices(config))


def settings(kind: type) -> str:
    """A row a setting."""
    rows = [
        (code(name), code(f"{PREFIX}{name.upper()}"), code(annotation), code(default), words)
        for name, annotation, default, words in fields(kind)
    ]
    return table(("setting", "environment", "type", "default", ""), rows)


def fields(kind: type) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and the words below each field, as they are written."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101  # the source of a class
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = _spelled(node.value) if node.value else ""
            yield node.target.id, ast.unparse(node.annotation), default, _words(after)


def _spelled(value: ast.expr) -> str:
    """A default as a person writes it."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Path":
        return str(ast.literal_eval(value.args[0]))
    if isinstance(value, ast.Attribute):
        return value.attr.lower()
    if ast.unparse(value) == "2 * (os.cpu_count() or 1)":
        return "twice the processors"
    if isinstance(value, ast.BinOp):
        return str(eval(ast.unparse(value), {}))  # noqa: S307  # a number, written as `1 << 20` in our own source
    return str(ast.literal_eval(value)) if isinstance(value, ast.Constant) else ast.unparse(value)


def _words(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def choices(module: ModuleType) -> str:
    """The settings' own types, and what they may be."""
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, StrEnum) and kind.__module__ == module.__name__
    ]
    rows = [
        (code(kind.__name__), ", ".join(code(choice.value) for choice in kind), words_of(kind))
        for kind in kinds
    ]
    return "## Types\n\n" + table(("type", "values", ""), rows)
