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

ANOTHER_ROOT = """
import pathlib, subprocess
from pandastack.host.network import namespace
def run(*command): subprocess.run(command, check=True)
run("mount", "-t", "tmpfs", "tmpfs", "/run")
namespace.share_folder()
run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
pathlib.Path("/mnt/run").mkdir()
run("mount", "--rbind", "/run", "/mnt/run")
run("mount", "--make-rslave", "/mnt/run")
namespace.path_of("left").touch()
run("mount", "--bind", "/proc/self/ns/net", "/mnt/run/netns/left")
try:
    namespace.path_of("left").unlink()
except OSError as error:
    print(error.strerror)
namespace.remove("left")
print(sorted(path.name for path in namespace.FOLDER.iterdir()))
"""


def told(first: str, again: str = "") -> str:
    return done(STORY.format(first=first, first_again=again))


def done(story: str) -> str:
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


def test_what_was_made_in_a_root_that_shares_the_folder_can_be_removed() -> None:
    """The first line is the control: without looking for it there, it cannot."""
    assert done(ANOTHER_ROOT) == "Device or resource busy\n[]\n"
