"""Tests test the real thing: nothing is mocked, patched, skipped or expected to fail.

One thing cannot be had everywhere and cannot be stood in for: the device of hardware virtualization.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .checkout import FUNCTIONS, ROOT, Source, dotted, sources

MOCKING = frozenset({"mock", "unittest.mock", "pytest_mock", "responses", "respx", "freezegun"})
PATCHING = frozenset({"monkeypatch", "mocker", "class_mocker", "module_mocker", "session_mocker"})
EVADING = frozenset(
    {
        "pytest.skip",
        "pytest.xfail",
        "pytest.importorskip",
        "pytest.mark.skip",
        "pytest.mark.skipif",
        "pytest.mark.xfail",
        "unittest.skip",
        "unittest.skipIf",
        "unittest.skipUnless",
        "unittest.expectedFailure",
    }
)

MAY_SKIP = {"tests/vm/conftest.py:kvm_device": "pytest.skip"}
"""The one fixture that may, and by what."""


def code_of_tests() -> tuple[Source, ...]:
    return sources(ROOT / "tests") + sources(ROOT / "src" / "pandastack" / "testing")


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_is_mocked() -> None:
    found = [
        source.at(node, name)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(node)
        if name in MOCKING
    ]
    assert not found


def test_nothing_is_patched() -> None:
    found = [
        source.at(node, argument.arg)
        for source in code_of_tests()
        for node in ast.walk(source.tree)
        if isinstance(node, FUNCTIONS)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.arg in PATCHING
    ]
    assert not found


def test_nothing_is_skipped_or_expected_to_fail() -> None:
    found = [
        source.at(node, dotted(node))
        for source in code_of_tests()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and dotted(node) in EVADING and node not in allowed(source)
    ]
    aliases = [
        source.at(node, name)
        for source in code_of_tests()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        for name in imported(node)
        if name in EVADING
    ]
    assert not found + aliases


def allowed(source: Source) -> list[ast.AST]:
    """The nodes of this file that may skip: one in each fixture that may."""
    found: list[ast.AST] = []
    for name, function in source.functions():
        verb = MAY_SKIP.get(f"{source.name}:{name}")
        skips = [
            node for node in ast.walk(function) if isinstance(node, ast.Attribute) and dotted(node) == verb
        ]
        found += skips[:1]
    return found


def test_the_one_that_may_skip_does() -> None:
    places = [source for source in code_of_tests() if allowed(source)]
    assert [source.name for source in places] == [name.partition(":")[0] for name in MAY_SKIP]


def assigned(source: Source) -> Iterator[str]:
    """Names given at module level: a state machine's cases are a test as well."""
    for node in source.tree.body:
        if isinstance(node, ast.Assign):
            yield from (dotted(target) for target in node.targets)


def test_every_test_module_holds_a_test() -> None:
    empty = [
        source.name
        for source in code_of_tests()
        if source.path.name.startswith("test_")
        and not any(function.name.startswith("test_") for _, function in source.functions())
        and not any(name.startswith("Test") for name in assigned(source))
    ]
    assert not empty
