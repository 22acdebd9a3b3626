"""`pandastack ssh`, and what it writes for OpenSSH's own programs, against a whole server."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.cli.conftest import Run
from tests.wire.conftest import PROGRAM, Server, free_port

from pandastack import AsyncClient, Client


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(api_url=server.url, api_key=server.token) as client:
        yield client


@pytest.fixture
def box(client: Client) -> Iterator[str]:
    with client.sandboxes.create("base") as sandbox:
        yield sandbox.id


def public_key() -> str:
    public = Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_command(pandastack: Run, box: str, tmp_path: Path) -> None:
    done = pandastack("ssh", box, "--", "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr.strip()) == ("out\n", "err")
    assert pandastack("ssh", box, "--", "printf", "%s|", "a b", "$HOME").stdout == "a b|$HOME|"
    assert pandastack("ssh", box, "--", "cat", stdin="through").stdout == "through"
    assert pandastack("ssh", box, "--user", "nobody", "--", "id -un").stdout == "nobody\n"


def test_it_leaves_nothing(server: Server, pandastack: Run, box: str, tmp_path: Path) -> None:
    """No key stays, and none is seen by others meanwhile."""
    environment = {**server.environment, "TMPDIR": str(tmp_path)}
    command = [PROGRAM, "ssh", box, "--", "echo on; sleep 60"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        [folder] = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
        process.terminate()
        assert process.wait(20) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_shell(server: Server, box: str) -> None:
    """At a terminal: what is typed, and what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "ssh", box], env=server.environment, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        os.write(ours, b"echo $((40 + 2)) and $(tty | cut -c1-5); exit 9\n")
        said = b""
        try:
            while piece := os.read(ours, 65_536):
                said += piece
        except OSError:
            pass
        assert process.wait(20) == 9
    os.close(ours)
    assert b"42 and /dev/" in said


def test_what_is_no_sandbox(pandastack: Run, box: str) -> None:
    assert "no sandbox" in pandastack("ssh", "nobody-has-this", "--", "true", status=1).stderr
    assert "letters, digits" in pandastack("ssh", "a/../b", "--", "true", status=1).stderr
    assert "plain one" in pandastack("ssh", box, "--user", "a b", "--config", status=1).stderr


def test_the_configuration_of_ssh(server: Server, pandastack: Run, box: str, tmp_path: Path) -> None:
    """`ssh`, `scp` and `sftp` by a name; the certificate is replaced when it is about to end."""
    config = tmp_path / "config"
    config.write_text(pandastack("ssh", box, "--config").stdout)
    folder = server.home / ".config" / "pandastack" / "ssh" / box
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert server.token not in config.read_text()

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        environment = server.environment
        return subprocess.run(
            [words[0], "-F", str(config), *words[1:]],
            env=environment, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    name = f"panda-{box}"
    done = run("ssh", name, "echo inside")
    assert done.stdout == b"inside\n", done.stderr
    first = (folder / "key-cert.pub").read_bytes()
    data = os.urandom(100_000)
    (tmp_path / "there").write_bytes(data)
    assert run("scp", str(tmp_path / "there"), f"{name}:/tmp/{box}").returncode == 0
    assert run("scp", f"{name}:/tmp/{box}", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == data
    assert run("ssh", name, f"rm /tmp/{box}").returncode == 0
    assert (folder / "key-cert.pub").read_bytes() == first
    (folder / "key-cert.pub").unlink()
    time.sleep(1.1)  # certificates are numbered by the second
    assert run("ssh", name, "echo inside").stdout == b"inside\n"
    assert (folder / "key-cert.pub").read_bytes() != first


LINE = "127.0.0.1\n    ProxyCommand touch {}"
INJECTED = {
    "host": LINE,
    "login": "root\n    ProxyCommand touch {}",
    "host_key_alias": "sandbox\n    ProxyCommand touch {}",
    "port": "22\n    ProxyCommand touch {}",
    "certificate": "ssh-ed25519 AAAA\nProxyCommand touch {}",
    "known_hosts": "@cert-authority * ssh-ed25519 AAAA\n* ssh-ed25519 AAAA {}",
}
OPTION = "-oProxyCommand=touch {}"
"""What a server could answer to have its clients run a program, or believe others: `{}` is a file."""


@contextmanager
def answering(body: object) -> Iterator[str]:
    """A server whose answer to everything is this; its URL."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listener:
        thread = threading.Thread(target=listener.serve_forever, name="answers")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("name", "text"), [*INJECTED.items(), ("host", OPTION), ("login", OPTION), ("host_key_alias", "%h*")]
)
def test_a_server_has_no_say_in_what_runs_here(name: str, text: str, tmp_path: Path) -> None:
    """Its answer becomes lines and arguments of what `ssh` reads."""
    planted = tmp_path / "planted"
    honest = {
        "certificate": "ssh-ed25519-cert-v01@openssh.com AAAA",
        "login": "root",
        "host": "127.0.0.1",
        "port": free_port(),
        "host_key_alias": "sandbox",
        "known_hosts": "@cert-authority * ssh-ed25519 AAAA",
        "expires_at": "2030-01-01T00:00:00Z",
    }
    environment = {"HOME": str(tmp_path), "PATH": os.defpath, "PANDASTACK_API_KEY": "pds_none"}

    def said(answer: object, *words: str) -> subprocess.CompletedProcess[str]:
        with answering(answer) as url:
            return subprocess.run(
                [PROGRAM, "ssh", "box", *words], env={**environment, "PANDASTACK_API": url},
                capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    lines = said(honest, "--config")
    assert (lines.returncode, lines.stderr) == (0, ""), "what the others are told apart from"
    for words in (("--config",), ("--", "true")):
        done = said({**honest, name: text.format(planted)}, *words)
        assert done.returncode == 1
        assert "answer is no" in done.stderr
        assert done.stdout == ""
    assert not planted.exists()
    assert not list((tmp_path / ".config").rglob("*.new"))


def test_ssh_runs_what_such_a_line_says(tmp_path: Path) -> None:
    """The negative control."""
    planted, config = tmp_path / "planted", tmp_path / "config"
    config.write_text(f"Host box\n    HostName {LINE.format(planted)}\n")
    subprocess.run(["ssh", "-F", config, "box"], timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert planted.exists()


def test_the_blocking_client(client: Client, box: str) -> None:
    made = client.sandboxes.get(box).ssh_certificate(public_key(), user="nobody", ttl_seconds=60)
    assert made["login"] == f"nobody+{box}"
    assert re.match(r"@cert-authority \S+ ssh-ed25519 \S+$", made["known_hosts"])
    assert made["certificate"].startswith("ssh-ed25519-cert-v01@openssh.com ")


@pytest.mark.anyio
async def test_the_asynchronous_client(server: Server, box: str) -> None:
    async with AsyncClient(api_url=server.url, api_key=server.token) as client:
        made = await (await client.sandboxes.get(box)).ssh_certificate(public_key())
        assert made["host"] == "127.0.0.1" and made["port"] > 0
