"""Every reason for which a host is `degraded` is in the table of `docs/how-to/production-host.md`, with what
mends it; and the table has no others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .checkout import PACKAGE, ROOT, dotted, sources

PAGE = ROOT / "docs" / "how-to" / "production-host.md"
ROW = re.compile(r"^\| `degraded: ([^`]+)` \| .+ \|$", re.MULTILINE)
TELLING = frozenset({"degraded", "lacks", "unlimited"})
"""What says the reasons: attributes of drivers and of control groups, and a function."""
ANYTHING = "\N{HORIZONTAL ELLIPSIS}"


def test_the_table_has_every_reason_and_no_other() -> None:
    trees = [source.tree for source in sources(PACKAGE)]
    said, rows = set(reasons(trees)), ROW.findall(PAGE.read_text("utf-8"))
    assert len(said) >= 5
    assert not unlike(said, rows)


def test_the_check_sees_what_is_wrong() -> None:
    code = """
NEW = "no sound in space"
class Driver:
    def __init__(self, count):
        self.degraded = ("no air",) if count else (NEW,)
        self.degraded += tuple(f"no {each} at {count}" for each in ())
"""
    said = set(reasons([ast.parse(code)]))
    assert said == {"no air", "no sound in space", "no … at …"}
    assert not unlike(said, ["no air", "no sound in space", "no … at …"])
    assert unlike(said, ["no air", "no … at …"]) == {"no sound in space"}
    assert unlike(said, [*said, "no light"]) == {"no light"}


def reasons(trees: list[ast.Module]) -> Iterator[str]:
    """What these modules say as reasons, with an ellipsis where they put something in."""
    texts = {name: text for tree in trees for name, text in _constants(tree)}
    for tree in trees:
        for node in ast.walk(tree):
            for part in _telling(node):
                yield from _texts(part, texts)


def unlike(said: set[str], rows: list[str]) -> set[str]:
    """Reasons without exactly one row, and rows without a reason."""
    likes = {row: {text for text in said if _like(row, text)} for row in rows}
    times = {text: sum(text in found for found in likes.values()) for text in said}
    return {text for text, count in times.items() if count != 1} | {row for row in rows if not likes[row]}


def _like(row: str, text: str) -> bool:
    return re.fullmatch(".+".join(map(re.escape, row.split(ANYTHING))), text) is not None


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module's own names for texts."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(value := node.value, ast.Constant):
            yield dotted(node.targets[0]), str(value.value)


def _telling(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that say reasons: what is assigned, and a function's body behind its docstring."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(each, ast.Attribute) and each.attr in TELLING for each in targets):
            yield node.value
    elif isinstance(node, ast.FunctionDef) and node.name in TELLING:
        yield from node.body[1:]


def _texts(node: ast.AST, texts: dict[str, str]) -> Iterator[str]:
    """Of several words each, as what is said in one is a name of something."""
    if isinstance(node, ast.JoinedStr):
        parts = (each.value if isinstance(each, ast.Constant) else ANYTHING for each in node.values)
        yield "".join(str(part) for part in parts)
        return
    said = texts.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", None)
    if isinstance(said, str) and " " in said:
        yield said
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child, texts)
