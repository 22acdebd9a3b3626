"""What others rely on is documented: SDK, services, seams, every endpoint, every error, the licence."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from inspect import getdoc

import pandastack
from pandastack.api import openapi
from pandastack.api.ports import visit
from pandastack.api.v1 import ENDPOINTS
from pandastack.errors import PandastackError, from_body
from pandastack.model.account import Scope

from .checkout import FUNCTIONS, PACKAGE, ROOT, Source, sources

PROMISES = ("client/", "services/", "host/driver.py", "model/host.py", "model/guest.py")
"""Where every public class and function says what it guarantees."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public classes and functions, and the public methods of public classes."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, *FUNCTIONS)) or node.name.startswith("_"):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")


def silent(source: Source) -> Iterator[str]:
    for name, node in definitions(source.tree.body):
        if ast.get_docstring(node) is None and not _says_nothing_new(node):
            yield source.at(node, name)


def _says_nothing_new(node: Definition) -> bool:
    """Whether a decorator makes its words another definition's: an overload, a setter."""
    words = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(word in {"overload", "override"} or word.endswith(".setter") for word in words)


def test_what_others_rely_on_says_what_it_guarantees() -> None:
    found = [
        words
        for source in sources(PACKAGE)
        if source.path.relative_to(PACKAGE).as_posix().startswith(PROMISES)
        for words in silent(source)
    ]
    assert not found


def test_every_module_says_what_it_is() -> None:
    found = [
        source.name
        for source in sources(PACKAGE)
        if ast.get_docstring(source.tree) is None and source.text.strip()
    ]
    assert not found


def test_every_endpoint_is_documented_and_scoped() -> None:
    for endpoint in ENDPOINTS:
        assert endpoint.summary[:1].isupper() and not endpoint.summary.endswith("."), endpoint.path
        assert endpoint.tag, endpoint.path
        assert isinstance(endpoint.scope, Scope), endpoint.path


def test_no_two_endpoints_share_a_place() -> None:
    places = Counter((endpoint.method, endpoint.path) for endpoint in ENDPOINTS)
    assert not [place for place, count in places.items() if count > 1]


def test_few_endpoints_need_no_key() -> None:
    public = {endpoint.path for endpoint in ENDPOINTS if endpoint.scope is Scope.PUBLIC}
    links = {"/v1/p/{token}", "/v1/p/{token}/{rest:path}"}
    assert public - links == {"/healthz", "/version", "/metrics", "/openapi.json", "/docs"}


def test_reading_is_what_a_get_does() -> None:
    """GET never changes anything, so it is the only method that a reading scope opens; a preview link opens
    what it leads to.
    """
    open_to = {Scope.READ, Scope.PUBLIC}
    reading = {each.method for each in ENDPOINTS if each.scope in open_to and each.handler is not visit}
    assert reading <= {"GET", "HEAD"}


def test_every_endpoint_is_in_the_openapi_document() -> None:
    document = openapi.document(ENDPOINTS, "1")
    paths = document["paths"]
    assert isinstance(paths, dict)
    for endpoint in ENDPOINTS:
        for method in openapi.methods_of(endpoint):
            operation = paths[openapi.plain(endpoint.path)][method]
            assert operation["summary"] == endpoint.summary
            assert operation["tags"] == [endpoint.tag]


def test_operations_have_names_of_their_own() -> None:
    document = openapi.document(ENDPOINTS, "1")
    paths = document["paths"]
    assert isinstance(paths, dict)
    names = Counter(
        (operation["operationId"], method) for path in paths.values() for method, operation in path.items()
    )
    assert not [name for name, count in names.items() if count > 1]


def all_errors() -> list[type[PandastackError]]:
    """Every class of the tree, wherever it is defined."""
    for module in pkgutil.walk_packages(pandastack.__path__, "pandastack."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return list(_tree(PandastackError))


def _tree(root: type[PandastackError]) -> Iterator[type[PandastackError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def test_every_error_has_a_code_of_its_own_and_is_documented() -> None:
    own = [error for error in all_errors() if error.__module__.startswith("pandastack.")]
    codes = Counter(error.code for error in own if "code" in vars(error))
    assert not [code for code, count in codes.items() if count > 1 and code != PandastackError.code]
    for error in own:
        assert getdoc(error), error
        assert 400 <= error.status <= 599, error


def test_every_code_of_the_wire_becomes_its_class_again() -> None:
    for error in all_errors():
        if error.__module__ == "pandastack.errors" and "code" in vars(error) and error is not PandastackError:
            body = error("a sentence").to_body()
            assert type(from_body(body, error.status)) is error


def test_the_licence_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert "Apache License" in text and "Version 2.0, January 2004" in text
