"""`docs/reference/python.md`: what `from pandastack import …` gives."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import is_typeddict

import msgspec

import pandastack
from pandastack import client
from reference.markdown import code, document, table, words_of

WORDS = """```python
from pandastack import Sandbox

with Sandbox.create() as sandbox:
    print(sandbox.exec("uname -a", check=True).stdout)
```

Names and behaviour are those of the official `pandastack` package, so that programs written for it run
unchanged; what is more is told here. Every class that talks to the server has a twin whose name begins with
`Async`: the same methods, to be awaited, and `async with` and `async for` where this page has `with` and
`for`."""

VERBS = (
    *("Sandbox", "SandboxCommands", "SandboxFilesystem", "Process", "Terminal"),
    *("Client", "SandboxAPI", "SnapshotsAPI", "TemplatesAPI", "TokensAPI"),
)
"""Classes that do something, in the order in which a reader meets them."""

SHORT = 90
"""A signature of so many characters stands on one line."""


def page() -> str:
    """The whole page."""
    names = [name for name in pandastack.__all__ if isinstance(getattr(client, name, None), type)]
    blocking = [name for name in names if not name.startswith("Async")]
    errors = [name for name in blocking if issubclass(getattr(client, name), Exception)]
    values = [name for name in blocking if name not in VERBS and name not in errors]
    parts = [class_words(name) for name in VERBS]
    parts += ["# Values", *(class_words(name) for name in values)]
    parts += ["# Errors", table(("class", "also known as", ""), [error(name) for name in errors])]
    parts += ["# Functions", *(function_words(name) for name in pandastack.__all__ if "async" not in name)]
    return document("Python", WORDS, *parts)


def class_words(name: str) -> str:
    """A class: its words, its fields, then its methods."""
    kind: type = getattr(client, name)
    parts = [f"## `{name}`", words_of(kind), table(("field", "type"), fields(kind))]
    for method, member in members(kind):
        parts += [f"### `{name}.{method}`", spelled(f"{name}.{method}", member), words_of(member)]
    return "\n\n".join(part for part in parts if part)


def function_words(name: str) -> str:
    """A function of the package; nothing for what is none."""
    function = getattr(client, name, None)
    if not inspect.isfunction(function):
        return ""
    return "\n\n".join([f"## `{name}`", spelled(f"pandastack.{name}", function), words_of(function)])


def members(kind: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties in the order of the source, but those that want a connection of ours."""
    for base in kind.__mro__:
        if base.__module__.startswith("pandastack"):
            for name, member in vars(base).items():
                function = getattr(member, "__func__", member)
                is_verb = inspect.isfunction(function) or isinstance(function, property)
                if is_verb and not name.startswith("_") and "onnect" not in signature(function):
                    yield name, function


def spelled(name: str, member: object) -> str:
    """How it is written in a program."""
    if isinstance(member, property):
        return f"```python\n{name}: {signature(member.fget).removeprefix('() -> ')}\n```"
    text = signature(member)
    return f"```python\n{name}{text if len(text) < SHORT else broken(text)}\n```"


def broken(text: str) -> str:
    """A long signature, one argument a line."""
    arguments, _, answer = text.removeprefix("(").rpartition(")")
    pieces = re.split(r", (?=\*|\w+: )", arguments)
    return "(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){answer}"


def signature(function: object) -> str:
    """How it is called."""
    if not inspect.isfunction(function):
        return ""
    found = inspect.signature(function)
    shown = [each for name, each in found.parameters.items() if name not in {"self", "cls"}]
    text = str(found.replace(parameters=shown))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are text in our sources


def fields(kind: type) -> list[tuple[str, str]]:
    """Name and type of each public field of a value."""
    if dataclasses.is_dataclass(kind):
        found = [(each.name, str(each.type)) for each in dataclasses.fields(kind)]
    elif issubclass(kind, msgspec.Struct):
        annotations = inspect.get_annotations(kind)
        found = [(name, str(annotations.get(name, ""))) for name in kind.__struct_fields__]
    elif is_typeddict(kind):
        found = [(name, getattr(of, "__forward_arg__", str(of))) for name, of in kind.__annotations__.items()]
    else:
        found = []
    return [(code(name), code(of)) for name, of in found if not name.startswith("_")]


def error(name: str) -> tuple[str, str, str]:
    """A row of the table of errors."""
    kind = getattr(client, name)
    other = code(kind.__name__) if kind.__name__ != name else ""
    return code(name), other, words_of(kind).split("\n\n")[0]
