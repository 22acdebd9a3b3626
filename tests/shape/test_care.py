"""Nothing runs unowned, nothing is swallowed in silence, and only roots reach for the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .checkout import FUNCTIONS, PACKAGE, Function, Source, dotted, sources

SPAWNING = frozenset({"create_task", "ensure_future", "run_coroutine_threadsafe"})

OWNED_TASKS = {
    "carrying.py": "awaited by whoever is cancelled meanwhile; `beside` cancels and awaits its own",
    "api/server.py": "the server's own task, awaited at the end of the block that started it",
    "host/death.py": "both are cancelled and awaited before `answered` returns",
    "host/egress/client.py": "an order on its way, cancelled and awaited by who gives it",
    "host/templates.py": "shared by all who wait for a template; `close` cancels and awaits it",
    "host/zygote.py": "a fork that nobody waits for any more is awaited and undone",
    "host/zygotes.py": "fork servers are made beside restores; `close` cancels and awaits it",
    "services/turns.py": "awaited by all who wait for it, and ended before the last of them goes",
    "host/vms.py": "starts are shared by who asks, watchers live as long as machines; `let_go` ends both",
}
"""Where a task is started outside of a TaskGroup, and who cancels and awaits it."""

AMBIENT = frozenset(
    {
        *("os.environ", "os.environb", "os.getenv", "os.urandom", "os.getrandom"),
        *("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns"),
        *("time.localtime", "time.gmtime"),
        *("uuid.uuid1", "uuid.uuid4", "random", "secrets"),
        *("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now"),
    }
)
"""The environment, the clock and chance. `time.perf_counter` only measures: nothing is decided by it."""

ROOTS = ("cli/", "testing/")
"""Folders of programs: what a person starts, and what tests start."""

REACHING = {
    "control.py": "the composition root of the control plane",
    "host/app.py": "the composition root of a host",
    "host/egress/__main__.py": "the composition root of the egress process",
    "host/publish.py": "names of drafts that no other process has",
    "client/_config.py": "`read_surroundings`: where a program that uses the SDK is composed",
    "client/_pair.py": "names of drafts that no other process has",
    "client/_async/connection.py": "the SDK is composed by its user: clock and jitter are its defaults",
    "client/_sync/connection.py": "the same, made from it",
}
"""Files that may reach for the world, and why they are the place for it."""


def product() -> tuple[Source, ...]:
    return sources(PACKAGE)


def below(source: Source) -> str:
    return source.path.relative_to(PACKAGE).as_posix()


def groups(function: ast.AST) -> set[str]:
    """Names that a function binds to a TaskGroup, or takes as one."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            call = node.context_expr
            if isinstance(call, ast.Call) and dotted(call.func).endswith("TaskGroup"):
                found.add(node.optional_vars.id)
        if isinstance(node, ast.arg) and node.annotation and "TaskGroup" in ast.unparse(node.annotation):
            found.add(node.arg)
    return found | set(_kept(function, found))


def _kept(function: ast.AST, names: set[str]) -> Iterator[str]:
    """Attributes that such a name is kept in: `self._group = group`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and dotted(node.value) in names:
            yield from (dotted(target) for target in node.targets)


def bare_tasks(source: Source) -> Iterator[str]:
    owned = groups(source.tree)
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        name = dotted(node.func)
        owner, _, verb = name.rpartition(".")
        if verb in SPAWNING and owner not in owned:
            yield source.at(node, name)


def test_every_task_has_an_owner() -> None:
    found = {below(source): list(bare_tasks(source)) for source in product()}
    bare = {name for name, tasks in found.items() if tasks}
    assert bare == set(OWNED_TASKS), [found[name] for name in sorted(bare - set(OWNED_TASKS))]


def is_broad(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(dotted(each) in {"Exception", "BaseException"} for each in kinds)


def goes_on(handler: ast.ExceptHandler) -> bool:
    """Whether the exception is raised again as it came."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def swallows(node: ast.AST) -> bool:
    """Whether it ends every exception: an `except` or a `suppress`."""
    if isinstance(node, ast.ExceptHandler):
        return is_broad(node.type) and not goes_on(node)
    if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] == "suppress":
        return any(is_broad(argument) for argument in node.args)
    return False


def broad_handlers(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler | ast.Call) or not swallows(node):
            continue
        if node.lineno not in source.comments:
            yield source.at(node, "what catches everything says in its line why")


def test_nothing_is_swallowed_in_silence() -> None:
    assert not [found for source in sources() for found in broad_handlers(source)]


def imported_names(source: Source) -> dict[str, str]:
    """What `from time import monotonic` and `import time as t` make of a name."""
    names: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"os", "time", "uuid"}:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in {"random", "secrets"}:
            names |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
    return names


def reaches(source: Source) -> Iterator[str]:
    names = imported_names(source)
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        first, dot, rest = dotted(node).partition(".")
        if first in {"random", "secrets"} and first not in names:
            continue  # a variable of that name
        name = names.get(first, first) + dot + rest
        if name in AMBIENT or (dot and name.partition(".")[0] in {"random", "secrets"}):
            yield source.at(node, name)


def test_only_composition_roots_reach_for_the_world() -> None:
    found = {
        below(source): list(reaches(source)) for source in product() if not below(source).startswith(ROOTS)
    }
    reaching = {name for name, places in found.items() if places}
    assert reaching == set(REACHING), [found[name] for name in sorted(reaching - set(REACHING))]


def blocking_forever(function: Function) -> bool:
    """A `while True` that never waits, looks or ends."""
    for node in ast.walk(function):
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value is True:
            kinds = (ast.Await, ast.Return, ast.Break, ast.Raise, ast.Yield, ast.YieldFrom, ast.AsyncFor)
            if not any(isinstance(inner, kinds) for inner in ast.walk(node)):
                return True
    return False


def test_every_loop_can_end_or_waits() -> None:
    found = [
        source.at(function, name)
        for source in product()
        for name, function in source.functions()
        if isinstance(function, FUNCTIONS) and blocking_forever(function)
    ]
    assert not found
