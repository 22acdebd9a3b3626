"""The documentation tells the truth: its commands exist, its Python type-checks, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pandastack.cli.program import GLOBAL_OPTIONS, app

from .checkout import ROOT, everything

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SEPARATORS = frozenset("();|&<>")


@dataclass(frozen=True)
class Block:
    """A fenced piece of a page."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0][:60]}"


def pages() -> list[Path]:
    """What readers read; notes for contributors included."""
    return [path for path in everything() if path.suffix == ".md"]


def blocks(*languages: str) -> list[Block]:
    """Every block of these languages, but those of pages that are made from code."""
    return [
        Block(page, language, text)
        for page in pages()
        if "reference" not in page.parts
        for language, text in FENCE.findall(page.read_text("utf-8"))
        if language in languages
    ]


def command_lines(block: Block) -> Iterator[str]:
    """What a reader types: all of a script, and what follows a prompt in a session."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if block.language == "bash":
            yield line
        elif line.startswith(("$ ", "# ")):
            yield line[2:]


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each program that a shell line starts."""
    words: list[str] = []
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    for token in tokens:
        if set(token) <= SEPARATORS:
            yield words
            words = []
        else:
            words.append(token)
    yield words


def our_commands(block: Block) -> Iterator[list[str]]:
    for line in command_lines(block):
        for words in simple_commands(line):
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words and words[0].rpartition("/")[2] == "pandastack":
                yield words[1:]


def option_values(command: Any) -> dict[str, bool]:  # noqa: ANN401  # typer's own types have no public names
    """The options of a command, and whether a value follows each."""
    options = {name: count > 0 for name, count in GLOBAL_OPTIONS.items()} | {"--help": False}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            names = (*parameter.opts, *parameter.secondary_opts)
            options |= {name: not parameter.is_flag for name in names}
    return options


def descend(words: list[str]) -> tuple[Any, list[str]]:
    """The command that is meant, and the words that are left for it."""
    command: Any = get_command(app)
    while hasattr(command, "list_commands") and words:
        options = option_values(command)
        if words[0] in options:
            words = words[2 if options[words[0]] else 1 :]
            continue
        context = command.make_context("pandastack", [], resilient_parsing=True)
        assert words[0] in command.list_commands(context), f"there is no command {words[0]!r}"
        command, words = command.get_command(context, words[0]), words[1:]
    return command, words


def check_words(words: list[str]) -> None:
    """Fail for a command, an option or a number of arguments that the program does not know."""
    command, rest = descend(words)
    if hasattr(command, "list_commands"):
        return
    options, given = option_values(command), 0
    greedy = not command.context_settings.get("allow_interspersed_args", True)
    while rest:
        word, rest = rest[0], rest[1:]
        name = word.partition("=")[0]
        if word == "--":
            given += len(rest)
            break
        if name.startswith("-") and not (greedy and given):
            assert name in options, f"{' '.join(words)}: there is no option {name}"
            rest = rest[1:] if options[name] and "=" not in word else rest
        else:
            given += 1
    required = sum(each.required for each in command.params if each.param_type_name == "argument")
    assert given >= required, f"{' '.join(words)}: {required} arguments are wanted"


@pytest.mark.parametrize("block", blocks("bash", "console", "ini"), ids=str)
def test_commands_exist_as_they_are_written(block: Block) -> None:
    for words in our_commands(block):
        check_words(words)


def test_the_check_sees_what_is_wrong() -> None:
    wrong = [
        "sandbox make",
        "sandbox ls --nothing",
        "sandbox cp one",
        "sandbox create --ttl 3 --bad=1",
        "fly",
    ]
    for line in wrong:
        with pytest.raises(AssertionError):
            check_words(shlex.split(line))
    for line in ("run -- ls --anything", "--json sandbox ls", "sandbox exec id -- ls -l", "up --state /x"):
        check_words(shlex.split(line))


@pytest.mark.parametrize("block", blocks("bash", "console"), ids=str)
def test_scripts_exist_and_may_be_run(block: Block) -> None:
    for line in command_lines(block):
        for words in simple_commands(line):
            if words and words[0].startswith(("scripts/", ".ci/")):
                path = ROOT / words[0]
                assert path.is_file() and path.stat().st_mode & 0o100, words[0]


def test_python_blocks_are_well_typed(tmp_path: Path) -> None:
    found = blocks("python")
    assert found
    for number, block in enumerate(found):
        (tmp_path / f"block_{number}.py").write_text(f"# {block}\n{block.text}")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    options = ["--config-file=", "--cache-dir", str(ROOT / ".mypy_cache" / "docs"), "--scripts-are-modules"]
    done = subprocess.run(
        [*command, *options, *sorted(str(path) for path in tmp_path.glob("*.py"))],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + "\n".join(f"{n}: {block}" for n, block in enumerate(found))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may say."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"run scripts/docs:\n{done.stdout}{done.stderr}"


def test_every_setting_is_in_the_reference() -> None:
    from_code = (ROOT / "docs" / "reference" / "config.md").read_text()
    for name in ("listen", "state_dir", "cache_dir", "driver", "on_exit", "bootstrap_token"):
        assert f"`{name}`" in from_code
