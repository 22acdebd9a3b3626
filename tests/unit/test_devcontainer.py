"""What of a devcontainer.json a template is built of."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.cli.devcontainer import find, read
from pandastack.errors import InvalidRequest

FULL = """\
// a comment
{
  "image": "registry.example/dev:1", /* another */
  "containerEnv": {"COLOUR": "gre\\"en $5"},
  "remoteUser": "dev",
  "workspaceFolder": "/work",
  "onCreateCommand": {"one": "make one", "two": ["make", "two words"]},
  "postCreateCommand": "pip install -e .",
  "forwardPorts": [3000, "8080", "db:5432"],
}
"""


def told(folder: Path, text: str, place: str = ".devcontainer/devcontainer.json") -> Path:
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_all_that_is_taken(tmp_path: Path) -> None:
    path = told(tmp_path, FULL)
    assert find(tmp_path) == path
    found = read(path, tmp_path)
    assert found.dockerfile.splitlines() == [
        "FROM registry.example/dev:1",
        'ENV COLOUR="gre\\"en \\$5"',
        "COPY . /work",
        "WORKDIR /work",
        "RUN chown -R dev /work",
        "USER dev",
        "RUN make one",
        "RUN make 'two words'",
        "RUN pip install -e .",
    ]
    assert found.ports == [3000, 8080]


def test_a_dockerfile_of_its_own(tmp_path: Path) -> None:
    path = told(tmp_path, '{"build": {"dockerfile": "Dev", "args": {"A": 1}, "target": "dev"}}')
    (path.parent / "Dev").write_text("FROM x AS dev\n")
    found = read(path, tmp_path)
    place = f"/workspaces/{tmp_path.name}"
    assert found.dockerfile == f"FROM x AS dev\nCOPY . {place}\nWORKDIR {place}\n"
    assert (found.build_args, found.target) == ({"A": "1"}, "dev")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "no object"),
        ("{}", "neither `image` nor `build`"),
        ('{"image": "a", "features": {"x": {}}}', "`features`"),
        ('{"dockerComposeFile": "c.yml"}', "`dockerComposeFile`"),
    ],
)
def test_what_is_not_taken_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(told(tmp_path, text, ".devcontainer.json"), tmp_path)


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert find(tmp_path) is None
