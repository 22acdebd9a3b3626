"""Lines of Dockerfiles, names of images, files of contexts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.errors import InvalidRequest
from pandastack.model.build import check_context_name
from pandastack.model.dockerfile import line_of, step_of
from pandastack.model.image import Size, image_of, is_own, parted, variant_of

TEXT = """\
# syntax
FROM base AS first

RUN one && \\
    two \\
  # between
    three
ARG WHO=x
ENV NAME=$WHO
RUN one && \\
    four"""


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("FROM base AS first", 2),
        ("RUN one &&     two   three", 4),
        ("ENV NAME=filled", 9),
        ("RUN one && four", 10),
        ("COPY nothing", None),
    ],
)
def test_a_step_is_found_where_it_stands(step: str, line: int | None) -> None:
    assert line_of(TEXT, step) == line


def test_steps_are_told_from_other_lines() -> None:
    assert step_of("STEP 3/8: RUN a") == "RUN a"
    assert step_of("STEP 1: FROM b") == "FROM b"
    assert step_of("steps") is None


@given(st.text(), st.text())
def test_no_text_breaks_it(text: str, step: str) -> None:
    found = line_of(text, step)
    assert found is None or 1 <= found <= len(text.splitlines())


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "../a", "a/../../b", "a\0b", "x" * 5000])
def test_a_file_of_a_context_is_within_it(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_context_name(name)


@pytest.mark.parametrize(("name", "clean"), [("a", "a"), ("./a//b", "a/b"), ("a/../b", "b"), ("..a", "..a")])
def test_names_of_a_context_are_plain(name: str, clean: str) -> None:
    assert check_context_name(name) == clean


def test_images_of_workspaces_are_told_apart() -> None:
    assert image_of("one", "base") == "base"
    mine, theirs = image_of("one", "own:1"), image_of("two", "own:1")
    assert is_own(mine)
    assert is_own(theirs)
    assert len({mine, theirs, image_of("one", "own:2")}) == 3
    assert not is_own("base")


def test_a_variant_is_parted_again() -> None:
    size = Size(2, 1024, 8192)
    assert parted(variant_of("base", size)) == ("base", size)
    assert parted("base") == ("base", None)
