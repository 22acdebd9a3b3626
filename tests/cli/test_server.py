"""The program against a server, as a person uses it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ..wire.conftest import PROGRAM, Server, running
from .conftest import Run

pytestmark = [pytest.mark.wire, pytest.mark.timeout(120, func_only=True)]


def test_run_streams_and_exits_with_the_commands_code(pandastack: Run, tmp_path: Path) -> None:
    done = pandastack("run", "-t", "base", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert pandastack("run", "-t", "base", "echo shell | tr a-z A-Z").stdout == "SHELL\n"
    assert pandastack("run", "-t", "base", "-i", "cat", stdin="given").stdout == "given"
    assert (
        pandastack("run", "-t", "base", "-e", "A=1", "-w", "/tmp", "--", "sh", "-c", "echo $A $PWD").stdout
        == "1 /tmp\n"
    )
    assert json.loads(pandastack("sandbox", "ls", "--json").stdout) == []


def test_stdin_is_passed_on_as_it_is(server: Server, pandastack: Run) -> None:
    made = pandastack("sandbox", "create", "-t", "base").stdout.strip()
    command = [PROGRAM, "sandbox", "exec", "-i", made, "--", "od", "-An", "-tx1"]
    done = subprocess.run(
        command, env=server.environment, input=b"\xff\x00a", capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b" ff 00 61\n"
    pandastack("sandbox", "rm", made)


def test_run_copies_files_in(pandastack: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("content")
    target = str(tmp_path / "there") if server.driver == "process" else "/there"
    done = pandastack("run", "-t", "base", "-f", f"{tmp_path / 'here'}:{target}", "--", "cat", target)
    assert done.stdout == "content"


def test_a_file_that_is_not_here_is_told(pandastack: Run) -> None:
    told = pandastack("run", "-t", "base", "-f", "nowhere:/x", "--", "true", status=1).stderr
    assert told == "pandastack: nowhere: No such file or directory.\n"


def test_run_is_stopped_at_its_timeout(pandastack: Run) -> None:
    done = pandastack("run", "-t", "base", "--timeout", "1", "--", "sleep", "60", status=1)
    assert "timeout" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_destroys_its_sandbox(
    server: Server, pandastack: Run, number: signal.Signals
) -> None:
    command = [PROGRAM, "run", "-t", "base", "--", "sh", "-c", "echo ready; sleep 600"]
    process = subprocess.Popen(
        command, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == 130
    assert json.loads(pandastack("sandbox", "ls", "--json").stdout) == []


def test_a_sandbox_from_end_to_end(pandastack: Run, server: Server, tmp_path: Path) -> None:
    made = pandastack("sandbox", "create", "-t", "base", "-m", "a=b").stdout.strip()
    assert made in pandastack("sandbox", "ls").stdout
    assert "metadata: a=b" in pandastack("sandbox", "get", made).stdout
    assert json.loads(pandastack("--json", "sandbox", "get", made).stdout)["id"] == made
    assert pandastack("sandbox", "exec", made, "--", "sh", "-c", "exit 5", status=5).stdout == ""
    assert "ttl_seconds: 99" in pandastack("sandbox", "ttl", made, "99").stdout
    pandastack("sandbox", "pause", made)
    assert "paused" in pandastack("sandbox", "exec", made, "true", status=1).stderr
    pandastack("sandbox", "resume", made)
    assert "pid:" in pandastack("sandbox", "metrics", made).stdout
    logged = pandastack("sandbox", "logs", made, "-n", "1")
    assert logged.stdout or "console is silent" in logged.stderr
    assert "before" in pandastack("sandbox", "exec", made, "-w", "/tmp", "--", "pwd", status=2).stderr
    assert "sandbox.running" in pandastack("sandbox", "events", made).stdout
    assert pandastack("sandbox", "rm", made).stdout.strip() == made
    assert "sandbox.deleted" in pandastack("sandbox", "events", made).stdout
    gone = pandastack("sandbox", "get", made, status=1).stderr
    assert "pandastack sandbox ls" in gone


def test_trees_are_copied_both_ways(pandastack: Run, server: Server, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("deep")
    (source / "script").write_text("#!/bin/sh\necho ran\n")
    (source / "script").chmod(0o755)
    inside = str(tmp_path / "inside") if server.driver == "process" else "/srv/inside"
    made = pandastack("sandbox", "create", "-t", "base").stdout.strip()
    pandastack("sandbox", "cp", str(source), f"{made}:{inside}")
    assert pandastack("sandbox", "exec", made, f"{inside}/script").stdout == "ran\n"
    pandastack("sandbox", "cp", f"{made}:{inside}", str(tmp_path / "back"))
    assert (tmp_path / "back" / "sub" / "file").read_text() == "deep"
    pandastack("sandbox", "cp", f"{made}:{inside}/nothing", str(tmp_path), status=1)
    pandastack("sandbox", "cp", str(source), str(tmp_path / "x"), status=2)
    pandastack("sandbox", "rm", "--all")


def test_a_shell_is_a_terminal(server: Server, pandastack: Run) -> None:
    made = pandastack("sandbox", "create", "-t", "base").stdout.strip()
    child, terminal = pty.fork()
    if child == 0:
        os.execve(PROGRAM, [PROGRAM, "sandbox", "shell", made, "--cmd", "sh"], server.environment)  # noqa: S606  # no shell
    os.write(terminal, b"echo sum is $((40+2)); exit 9\n")
    heard = _until_end(terminal)
    assert b"sum is 42" in heard
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    pandastack("sandbox", "rm", made)


def _until_end(terminal: int) -> bytes:
    heard = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end of a pseudo terminal closes with EIO
            piece = b""
        if not piece:
            os.close(terminal)
            return heard
        heard += piece


def test_templates_and_tokens(pandastack: Run) -> None:
    assert "base" in pandastack("template", "ls").stdout
    assert pandastack("template", "bake", "base").stdout == "base is baked\n"
    secret = pandastack("token", "create", "ci").stdout.strip()
    assert secret.startswith("pds_")
    pandastack("sandbox", "ls", "--token", secret)
    prefix = next(
        each["prefix"]
        for each in json.loads(pandastack("token", "ls", "--json").stdout)
        if each["name"] == "ci"
    )
    pandastack("token", "rm", prefix)
    assert "--token" in pandastack("sandbox", "ls", "--token", secret, status=1).stderr


def test_one_server_a_state_directory(server: Server) -> None:
    command = [PROGRAM, "up", "--state", str(server.home / "state"), "--listen", "127.0.0.1:0"]
    command += ["--gateway", "127.0.0.1:0", "--ssh", "127.0.0.1:0"]
    done = subprocess.run(
        command, env=server.environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert f"process {server.process.pid}" in done.stderr


def test_a_host_for_strangers_does_not_start_where_they_cannot_be_kept_apart(
    tmp_path: Path, server: Server
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[host]\nmulti_tenant = true\naccept_isolation = "emulated"\n')
    command = [PROGRAM, "up", "--state", str(tmp_path / "state"), "--listen", "127.0.0.1:0"]
    command += ["--config", str(config), "--driver", "process", "--insecure-no-isolation"]
    done = subprocess.run(
        command, env=server.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78, done.stderr
    assert "the isolation is `none`" in done.stderr


def test_a_first_start_gives_a_key(tmp_path: Path, server: Server) -> None:
    command = [
        PROGRAM,
        "up",
        "--state",
        str(tmp_path / "state"),
        "--listen",
        "127.0.0.1:0",
        "--driver",
        "process",
    ]
    command += ["--insecure-no-isolation", "--gateway", "127.0.0.1:0", "--ssh", "127.0.0.1:0"]
    environment = {**server.environment, "HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    with process:
        config = tmp_path / ".config" / "pandastack" / "config.json"
        deadline = time.monotonic() + 60
        while not config.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        known = json.loads(config.read_text())
        listing = [PROGRAM, "sandbox", "ls", "--json"]
        clean = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        told = subprocess.run(listing, env=clean, capture_output=True, text=True, check=True, timeout=30)
        assert json.loads(told.stdout) == []
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert known["token"].encode() in process.stderr.read()
        assert process.wait(30) == 0


def test_down_ends_what_a_killed_server_left(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, server.driver, status=-signal.SIGKILL) as victim:
        create = [PROGRAM, "sandbox", "create", "-t", "base"]
        made = subprocess.run(create, env=victim.environment, capture_output=True, check=True, timeout=60)
        victim.process.kill()
    down = [PROGRAM, "down", "--state", str(tmp_path / "state")]
    told = subprocess.run(
        down, env=server.environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == "No server ran; machines ended now: 1.\n"
    again = subprocess.run(
        down, env=server.environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert again.stdout == "No server ran; machines ended now: 0.\n"
    with running(tmp_path, server.driver) as heir:
        events = [PROGRAM, "sandbox", "events", made.stdout.decode().strip()]
        history = subprocess.run(events, env=heir.environment, capture_output=True, check=True, timeout=60)
    assert b"cause=the server was stopped" in history.stdout
