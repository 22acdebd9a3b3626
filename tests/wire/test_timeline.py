"""Timelines with our SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pandastack
from pandastack import Client

from .conftest import Server, running

pytestmark = [pytest.mark.wire, pytest.mark.timeout(180, func_only=True)]


def test_a_step_is_the_state_behind_its_command(client: Client, server: Server, directory: str) -> None:
    """In a real machine both its disk and its memory: /dev/shm is nowhere else."""
    with client.sandboxes.create("base", checkpoints="exec") as sandbox:
        for number in (1, 2, 3):
            sandbox.exec(
                f"echo {number} | tee {directory}/file{number} > /dev/shm/panda-step; sync", check=True
            )
        steps = sandbox.timeline()
        assert [step.step for step in steps] == [0, 1, 2, 3]
        assert [step.exit_code for step in steps] == [None, 0, 0, 0]
        with sandbox.at(1) as past, sandbox.at(-1) as present:
            assert (past.from_snapshot, past.parent_id) == (steps[1].snapshot_id, sandbox.id)
            if server.driver != "process":  # whose files are those of this machine
                seen = f"cd {directory}; ls file*; cat /dev/shm/panda-step"
                assert past.exec(seen, check=True).stdout == "file1\n1\n"
                assert present.exec(seen, check=True).stdout == "file1\nfile2\nfile3\n3\n"
        with pytest.raises(pandastack.NotFoundError, match="it has 0, 1, 2, 3"):
            sandbox.at(9)
        assert sandbox.rollback(step=2).id == sandbox.id
        if server.driver != "process":
            assert sandbox.exec("cat /dev/shm/panda-step", check=True).stdout == "2\n"


@pytest.fixture(scope="module")
def own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server with real machines, which nobody else uses."""
    with (
        running(tmp_path_factory.mktemp("diff"), "qemu") as server,
        Client(api_url=server.url, api_key=server.token) as client,
    ):
        yield client


SERVE = "import socket, time; s = socket.create_server(('127.0.0.1', 4711)); time.sleep(999)"


@pytest.mark.vm
def test_a_diff_names_what_a_command_did(own_machine: Client) -> None:
    with own_machine.sandboxes.create("code-interpreter", checkpoints="exec") as sandbox:
        line = "mkdir /srv/d; cd /srv/d; echo a > gone; echo b > grown; echo c > same; echo d > other"
        sandbox.exec(f"{line}; echo f > sly", check=True)
        line = "cd /srv/d; rm gone; echo bb > grown; touch same; echo e > other; ln -s x link; echo n > new"
        sandbox.exec(f"{line}; touch -r sly time; echo g > sly; touch -r time sly; rm time", check=True)
        sandbox.commands.start(["python3", "-c", SERVE])
        sandbox.exec("until grep -q :1267 /proc/net/tcp; do sleep 0.1; done", 30, check=True)
        with sandbox.at(1) as past:
            found = past.diff(sandbox)
            assert {(file.path, file.size) for file in found.added} >= {("/srv/d/new", 2), ("/srv/d/link", 1)}
            assert [file.path for file in found.removed] == ["/srv/d/gone"]
            changed = {file.path: file.reason for file in found.changed if file.path.startswith("/srv")}
            assert changed == {"/srv/d/grown": "size", "/srv/d/other": "content", "/srv/d/sly": "content"}
            assert f"python3 -c {SERVE}" in {process.command for process in found.started}
            assert not found.ended
            assert [(port.port, port.address) for port in found.opened] == [(4711, "127.0.0.1")]
        kept = own_machine.diff(f"{sandbox.id}@0", f"{sandbox.id}@1", path="/srv")
        assert {file.path for file in kept.added} == {
            "/srv/d",
            *(f"/srv/d/{name}" for name in ("gone", "grown", "same", "other", "sly")),
        }
        assert (kept.removed, kept.changed, kept.opened, kept.truncated) == ((), (), (), False)
        assert [each.id for each in own_machine.sandboxes.list()] == [sandbox.id]
