"""`pandastack ssh`: this machine's own `ssh`, with a certificate that is good for some minutes."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from pandastack.cli.session import SandboxId, Session, session_of
from pandastack.client import SshCertificate, config_path
from pandastack.errors import InvalidRequest

app = typer.Typer(add_completion=False)

LEFT_SECONDS = 120
"""A certificate that is good for less than that is replaced."""
KEY, CERTIFICATE, KNOWN = "key", "key-cert.pub", "known_hosts"

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:+-]{0,254}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")


@app.command()
def ssh(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="Run instead of a shell: a line, or words that are taken as such."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Who to be there; root if not given.")] = None,
    config: Annotated[
        bool,
        typer.Option("--config", help="Print what `~/.ssh/config` needs for ssh, scp, rsync and editors."),
    ] = False,
    renew: Annotated[bool, typer.Option("--renew", hidden=True)] = False,
) -> None:
    """Connect to a sandbox by SSH, with keys that are made for it and last for minutes.

    It wakes a sandbox that sleeps, and keeps it awake.
    """
    session = session_of(ctx)
    if not _ID.fullmatch(sandbox_id) or (user is not None and not _USER.fullmatch(user)):
        raise InvalidRequest("A sandbox's id is letters, digits and hyphens; a user's name is a plain one.")
    if config or renew:
        folder = kept_folder(sandbox_id, user)
        with alone_in(folder):
            made = None if renew and lasts(folder) else certified(session, sandbox_id, user, folder)
        if config:
            assert made is not None  # noqa: S101  # it is only not asked for where it is renewed
            typer.echo(host_block(session, sandbox_id, user, folder, made))
        return
    program = shutil.which("ssh")
    if program is None:
        raise InvalidRequest("There is no `ssh` here: install OpenSSH's client (package openssh-client).")
    with tempfile.TemporaryDirectory(prefix="pandastack-ssh-") as place:
        folder = Path(place)
        made = certified(session, sandbox_id, user, folder)
        words = command or []
        line = words if len(words) < 2 else [shlex.join(words)]
        given = [word for name, value in settings(folder, made).items() for word in ("-o", f"{name}={value}")]
        status = run([program, "-F", "/dev/null", *given, "--", made["host"], *line])
    raise typer.Exit(status)


def run(words: list[str]) -> int:
    """Run a program that has this terminal to itself; its exit code. What ends us ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key that is pressed is its business
    try:
        with subprocess.Popen(words) as process:
            try:
                return process.wait()
            except BaseException:
                process.terminate()
                raise
    finally:
        signal.signal(signal.SIGINT, before)


def certified(session: Session, sandbox_id: str, user: str | None, folder: Path) -> SshCertificate:
    """Have a key, a certificate for it and the server's line in `folder`."""
    public = kept_key(folder / KEY)
    made = session.named(sandbox_id).ssh_certificate(public, user=user)
    for word in (made["host"], made["login"], made["host_key_alias"], str(made["port"])):
        if not _WORD.fullmatch(word):  # it becomes a line of what `ssh` reads, which can run programs
            raise InvalidRequest("The server's answer is no address to connect to.")
    for name, text in ((CERTIFICATE, made["certificate"]), (KNOWN, made["known_hosts"])):
        if "\n" in text:
            raise InvalidRequest("The server's answer is no certificate.")
        draft = folder / f"{name}.new"
        draft.write_text(f"{text}\n", "utf-8")
        draft.rename(folder / name)
    return made


def kept_key(path: Path) -> str:
    """The line of the public key to the private one in this file, which is made when it is missing."""
    formats = import_module("cryptography.hazmat.primitives.serialization")
    if path.is_file():
        key = formats.load_ssh_private_key(path.read_bytes(), password=None)
    else:
        key = import_module("cryptography.hazmat.primitives.asymmetric.ed25519").Ed25519PrivateKey.generate()
        data = key.private_bytes(formats.Encoding.PEM, formats.PrivateFormat.OpenSSH, formats.NoEncryption())
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.rename(path)
    public = key.public_key().public_bytes(formats.Encoding.OpenSSH, formats.PublicFormat.OpenSSH)
    return str(public.decode())


def settings(folder: Path, made: SshCertificate) -> dict[str, str]:
    """What `ssh` is told, so that it shows this key alone and believes this server alone."""
    return {
        "HostName": made["host"],
        "Port": str(made["port"]),
        "User": made["login"],
        "IdentityFile": _quoted(folder / KEY),
        "CertificateFile": _quoted(folder / CERTIFICATE),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "HostKeyAlias": made["host_key_alias"],
        "UserKnownHostsFile": _quoted(folder / KNOWN),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ForwardAgent": "no",
        "ServerAliveInterval": "30",
    }


def host_block(
    session: Session, sandbox_id: str, user: str | None, folder: Path, made: SshCertificate
) -> str:
    """Lines for `~/.ssh/config`: a certificate that is about to end is replaced whenever one connects."""
    renewing = [program(), *(("--api", session.api) if session.api else ()), "ssh", sandbox_id, "--renew"]
    renewing += ["--user", user] if user else []
    line = shlex.join(renewing).replace("%", "%%").replace('"', '\\"')
    name = f"panda-{sandbox_id}"
    inside = "\n".join(f"    {key} {value}" for key, value in settings(folder, made).items())
    return f'Match originalhost {name} exec "{line}"\nHost {name}\n{inside}'


def program() -> str:
    """How this program is called from anywhere."""
    return shutil.which(sys.argv[0]) or str(Path(sys.argv[0]).absolute())


def kept_folder(sandbox_id: str, user: str | None) -> Path:
    """Where the key for a sandbox is kept, for its owner alone."""
    login = sandbox_id if user is None else f"{user}+{sandbox_id}"
    folder = config_path(Path.home()).parent / "ssh" / login
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other of these programs changes what is in the folder while the block lasts."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lasts(folder: Path) -> bool:
    """Whether the certificate that is there is good for a while."""
    path = folder / CERTIFICATE
    if not path.is_file():
        return False
    formats = import_module("cryptography.hazmat.primitives.serialization")
    try:
        ends = formats.load_ssh_public_identity(path.read_bytes()).valid_before
    except (ValueError, AttributeError):
        return False
    return bool(ends - LEFT_SECONDS > time.time())


def _quoted(path: Path) -> str:
    """As `ssh` reads paths: with its own signs for what is to be filled in taken for themselves."""
    return '"' + str(path).replace("%", "%%") + '"'
