"""Namespaces beside those that somebody makes with `ip`."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

APART = ("unshare", "--mount", "--propagation", "private")
"""In mounts of its own, on a machine that has seen no namespace with a name."""
SHARED, NOT_SHARED = "namespace.share_folder()", "namespace.FOLDER.mkdir()"
STORY = """
import pathlib, subprocess
from pandastack.errors import MachineError
from pandastack.host.network import namespace
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
{first}
namespace.make("ours", {{"ipv4/ip_forward": "1"}})
subprocess.run(["ip", "netns", "add", "theirs"], check=True)
{first_again}
try:
    namespace.remove("ours")
except MachineError as error:
    print(error.message)
subprocess.run(["ip", "netns", "del", "theirs"], check=True)
print(sorted(path.name for path in namespace.FOLDER.iterdir()))
"""


def told(first: str, again: str = "") -> str:
    story = STORY.format(first=first, first_again=again)
    done = subprocess.run((*APART, sys.executable, "-c", story), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_others_may_make_namespaces_after_ours() -> None:
    assert told(SHARED) == "[]\n"


def test_a_second_server_does_not_cover_the_first_ones() -> None:
    assert told(SHARED, again=SHARED) == "[]\n"


def test_where_the_folder_is_not_shared_they_cover_ours() -> None:
    """The control; and whoever meets it is told what to do."""
    said = told(NOT_SHARED)
    assert "umount --lazy /run/netns" in said
    assert "ours" in said.splitlines()[-1]
