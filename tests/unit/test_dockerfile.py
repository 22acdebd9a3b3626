"""Lines of Dockerfiles, names of images, files of contexts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.errors import InvalidRequest
from pandastack.model.build import check_context_name, pinned
from pandastack.model.dockerfile import bases_of, dated, line_of, own_line, pinned_dockerfile, step_of
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


LONG = """\
ARG TAG=1
FROM --platform=linux/amd64 team/tool:${TAG} AS one
RUN echo "SELECT \\
FROM there"
FROM scratch
COPY --from=one / /
COPY --from=other:2 /a /b
"""


def test_a_dockerfile_is_built_on_the_same_images_again() -> None:
    pins = {"team/tool:1": "team/tool@sha256:1", "other:2": "other@sha256:2", "there": "no"}
    again = pinned_dockerfile(LONG, {}, pins)
    assert again == LONG.replace("team/tool:${TAG}", "team/tool@sha256:1")
    assert pinned_dockerfile(LONG, {"TAG": "2"}, pins) == LONG, "another tag is another image"
    assert (
        pinned_dockerfile(LONG, {"TAG": "2"}, {"team/tool:2": "x@y"}).splitlines()[1].endswith("x@y AS one")
    )


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("a", "a@d"),
        ("a:1", "a@d"),
        ("h.example:5000/a/b", "h.example:5000/a/b@d"),
        ("h.example:5000/a/b:1@e", "h.example:5000/a/b@d"),
    ],
)
def test_a_reference_is_pinned(reference: str, told: str) -> None:
    assert pinned(reference, "d") == told


def test_images_that_steps_name() -> None:
    steps = [
        "FROM team/tool:1 AS one",
        "RUN x --from=nothing",
        "FROM ONE",
        "FROM scratch",
        "FROM team/tool:1",
    ]
    steps += ["COPY --from=one / /", "COPY --from=0 / /", "COPY --chown=1 --from=other:2 /a /b"]
    steps += ["RUN --mount=type=bind,from=third,target=/x true"]
    assert bases_of(steps) == ["team/tool:1", "other:2", "third"]
    assert step_of("[1/2] STEP 2/3: RUN true") == "RUN true"


def test_each_stage_is_told_the_time() -> None:
    lines = dated(LONG, 7).splitlines()
    assert [number for number, line in enumerate(lines, 1) if line == "ARG SOURCE_DATE_EPOCH=7"] == [3, 7]
    for number, line in enumerate(lines, 1):
        if "EPOCH" not in line:
            assert LONG.splitlines()[own_line(LONG, number) - 1] == line
    own = "FROM a\nARG SOURCE_DATE_EPOCH\n"
    assert (dated(own, 7), own_line(own, 2)) == (own, 2)
