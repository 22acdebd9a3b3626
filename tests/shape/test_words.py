"""What must not be written: empty names, unfinished work, rules switched off in silence, machines' places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .checkout import ROOT, everything, sources

EMPTY_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"})

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|NotImplemented\b")
FINISHED = {
    "src/pandastack/config.py": "msgspec hears by NotImplementedError that there is no such conversion",
}

SWITCHED_OFF = re.compile(
    r"#\s*(?:type:\s*ignore(?:\[[\w, -]+\])?|noqa(?::\s*[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*)?)(.*)"
)

BINARY = frozenset({".png", ".jpg", ".woff2", ".ico", ".gz"})

KNOWN_HOSTS = frozenset(
    {
        "127.0.0.1",
        "localhost",
        "keepachangelog.com",
        "semver.org",
        "www.apache.org",
        "json-schema.org",
        "www.w3.org",
    }
)
"""Whom a text may name. Hosts of `example` domains and placeholders are fine as well."""

ADDRESS = re.compile(r"https?://([\w.-]+)")


def texts() -> Iterator[tuple[Path, str]]:
    """Every file that people wrote."""
    for path in everything():
        made = path.name in {"uv.lock", "LICENSE"} or "corpus" in path.parts
        if not made and path.suffix not in BINARY:
            yield path, path.read_text("utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_names_say_what_is_inside() -> None:
    parts = {part for path in everything() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert not parts & EMPTY_NAMES


def test_nothing_is_left_unfinished() -> None:
    this = Path(__file__)
    found = {name_of(path) for path, text in texts() if path != this and UNFINISHED.search(text)}
    assert found == set(FINISHED)


def test_a_rule_is_switched_off_only_with_a_reason() -> None:
    found = []
    for source in sources():
        for line, comment in source.comments.items():
            match = SWITCHED_OFF.match(comment)
            if match and len(re.findall(r"[a-z]{2,}", match[1])) < 2:
                found.append(f"{source.name}:{line}: {comment}")
    assert not found


def test_no_path_of_one_machine() -> None:
    """Neither this checkout's place nor anybody's home directory, but that of machines to develop on."""
    places = [re.escape(str(ROOT))] if len(ROOT.parts) > 2 else []
    pattern = re.compile("|".join([*places, r"/home/(?!dev/)[a-z][\w-]*/", r"/root/\.cache", r"/Users/"]))
    assert not [name_of(path) for path, text in texts() if path != Path(__file__) and pattern.search(text)]


def test_no_host_of_one_network() -> None:
    """Registries, mirrors and proxies are settings of a machine, not of the project."""
    found = [
        f"{name_of(path)}: {host}"
        for path, text in texts()
        for host in ADDRESS.findall(text)
        if host not in KNOWN_HOSTS and "example" not in host and "." in host
    ]
    assert not found
