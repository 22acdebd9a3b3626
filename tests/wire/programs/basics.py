"""Sandboxes from end to end: create, exec, files, lifecycle, errors."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import uuid
from pathlib import Path

from pandastack import (
    APIConnectionError,
    AuthError,
    BadRequestError,
    Client,
    CommandFailed,
    CreateRetryEvent,
    NotFoundError,
    PandastackError,
    Sandbox,
    SandboxTimeout,
    ServerError,
    get_default_client,
    set_default_client,
)

from .registry import make, must_fail, program


@program
def create_list_get_delete(directory: str) -> None:
    sandbox = Sandbox.create(template="base", metadata={"purpose": "wire"}, ttl_seconds=120)
    assert sandbox.status == "running"
    assert sandbox.template == "base"
    assert sandbox.metadata["purpose"] == "wire"
    assert sandbox.cpu >= 1
    assert sandbox.memory_mb >= 64
    assert sandbox.created_at
    assert isinstance(sandbox.boot_ms, int)
    assert not sandbox.persistent
    assert sandbox.id in [each.id for each in Sandbox.list()]
    again = Sandbox.get(sandbox.id)
    assert again.metadata == sandbox.metadata
    assert again.refresh().id == sandbox.id
    sandbox.kill()
    assert sandbox.id not in [each.id for each in Sandbox.list()]
    must_fail(NotFoundError, lambda: Sandbox.get(sandbox.id))
    must_fail(NotFoundError, lambda: sandbox.exec("true"))


@program
def the_end_of_a_block_destroys(directory: str) -> None:
    with make() as sandbox:
        pass
    must_fail(NotFoundError, sandbox.refresh)
    try:
        with make() as sandbox:
            int("no number")
    except ValueError:
        must_fail(NotFoundError, sandbox.refresh)
    with Sandbox.create(template="base", persistent=True) as sandbox:
        assert sandbox.persistent
    assert sandbox.refresh().status == "running"
    sandbox.kill()


@program
def exec_tells_how_it_went(directory: str) -> None:
    with make() as sandbox:
        result = sandbox.exec("echo out; echo err >&2; exit 3")
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
        assert isinstance(result.duration_ms, int)
        assert sandbox.exec("printf '%s' \"it's | a && line\"").stdout == "it's | a && line"
        assert sandbox.exec("kill -KILL $$").exit_code == 137
        assert sandbox.exec("no-such-program-anywhere").exit_code == 127
        assert sandbox.exec("printf 'h\\303\\251'").stdout == "hé"
        assert len(sandbox.exec("head -c 3000000 /dev/zero | tr '\\0' x").stdout) == 3_000_000
        failed = must_fail(CommandFailed, lambda: sandbox.exec("echo no; exit 9", check=True))
        assert (failed.exit_code, failed.stdout) == (9, "no\n")
        assert sandbox.commands.run("echo run", timeout=10).stdout == "run\n"


@program
def a_timeout_kills_the_whole_group(directory: str) -> None:
    with make() as sandbox:
        began = time.monotonic()
        must_fail(SandboxTimeout, lambda: sandbox.exec("sleep 321 & sleep 321", timeout_seconds=1))
        assert time.monotonic() - began < 10
        assert sandbox.exec("pgrep -f '[s]leep 321'").exit_code == 1
        must_fail(SandboxTimeout, lambda: sandbox.exec_stream("sleep 321", timeout_seconds=1))
        assert sandbox.exec("echo alive").stdout == "alive\n"


@program
def a_silent_command_may_take_forty_seconds(directory: str) -> None:
    with make() as sandbox:
        assert sandbox.exec("sleep 40; echo done", timeout_seconds=60).stdout == "done\n"


@program
def a_child_in_the_background_does_not_hold_exec(directory: str) -> None:
    with make() as sandbox:
        began = time.monotonic()
        sandbox.exec("setsid sleep 30 >/dev/null 2>&1 </dev/null & echo started")
        assert time.monotonic() - began < 10


@program
def exec_stream_gives_pieces_as_they_come(directory: str) -> None:
    with make() as sandbox:
        heard: list[tuple[str, float]] = []
        errors: list[str] = []
        code = sandbox.exec_stream(
            "echo one; sleep 1; echo two; echo bad >&2; exit 4",
            on_stdout=lambda text: heard.append((text, time.monotonic())),
            on_stderr=errors.append,
        )
        assert code == 4
        assert "".join(text for text, _ in heard) == "one\ntwo\n"
        assert heard[-1][1] - heard[0][1] > 0.7
        assert "".join(errors) == "bad\n"


@program
def code_runs(directory: str) -> None:
    with make() as sandbox:
        assert sandbox.run_code("import math; print(math.factorial(20))").stdout == "2432902008176640000\n"
        assert sandbox.run_code("echo $((6*7))", language="bash").stdout == "42\n"
        assert sandbox.run_code("1/0").exit_code == 1
        must_fail(ValueError, lambda: sandbox.run_code("x", language="cobol"))


@program
def files_go_in_and_out(directory: str) -> None:
    with make() as sandbox:
        files = sandbox.filesystem
        content = bytes(range(256)) * 40
        written = files.write(f"{directory}/deep/er/data.bin", content)
        assert written == {"path": f"{directory}/deep/er/data.bin", "bytes": len(content)}
        assert files.read(f"{directory}/deep/er/data.bin") == content
        files.write(f"{directory}/text", "héllo\n")
        assert sandbox.exec(f"cat {directory}/text").stdout == "héllo\n"
        files.write(f"{directory}/text", "short")
        assert files.read(f"{directory}/text") == b"short"
        files.write(f"{directory}/empty", b"")
        assert files.read(f"{directory}/empty") == b""
        files.write(f"{directory}/sp ace & ünï#?", "named")
        assert files.read(f"{directory}/sp ace & ünï#?") == b"named"
        with tempfile.TemporaryDirectory() as here:
            local = Path(here) / "local"
            local.write_bytes(content)
            files.upload(local, f"{directory}/up")
            files.download(f"{directory}/up", Path(here) / "down")
            assert (Path(here) / "down").read_bytes() == content


@program
def files_are_described(directory: str) -> None:
    with make() as sandbox:
        files = sandbox.filesystem
        files.write(f"{directory}/a/b/c.txt", "12345")
        files.write(f"{directory}/top.txt", "1")
        sandbox.exec(f"mkdir {directory}/void; ln -s top.txt {directory}/link")
        listed = {entry.name: entry for entry in files.listdir(directory)}
        assert set(listed) == {"a", "top.txt", "void", "link"}
        assert (listed["a"].is_dir, listed["a"].mode, listed["a"].path) == (True, "d", f"{directory}/a")
        assert (listed["top.txt"].is_dir, listed["top.txt"].mode, listed["top.txt"].size) == (False, "f", 1)
        assert abs(listed["top.txt"].mtime - time.time()) < 600
        assert files.listdir(f"{directory}/void") == []
        info = files.stat(f"{directory}/a/b/c.txt")
        assert (info.name, info.path, info.size, info.is_dir) == ("c.txt", f"{directory}/a/b/c.txt", 5, False)
        assert files.exists(directory)
        assert not files.exists(f"{directory}/nothing")
        walked = {where: sorted(f.name for f in inside) for where, _, inside in files.walk(directory)}
        assert walked == {
            directory: ["link", "top.txt"],
            f"{directory}/a": [],
            f"{directory}/a/b": ["c.txt"],
            f"{directory}/void": [],
        }
        assert any(entry.name == "etc" for entry in files.listdir())


@program
def file_errors_are_of_the_right_kind(directory: str) -> None:
    with make() as sandbox:
        files = sandbox.filesystem
        must_fail(NotFoundError, lambda: files.read(f"{directory}/nothing"))
        must_fail(NotFoundError, lambda: files.stat(f"{directory}/nothing"))
        must_fail(NotFoundError, lambda: files.listdir(f"{directory}/nothing"))
        must_fail(BadRequestError, lambda: files.read("relative"))
        must_fail(BadRequestError, lambda: files.write("relative", "x"))
        must_fail(BadRequestError, lambda: files.read("/etc"))
        must_fail(BadRequestError, lambda: files.listdir("/etc/passwd"))


@program
def a_large_file_survives_the_round_trip(directory: str) -> None:
    with make() as sandbox:
        content = os.urandom(1 << 20) * 48
        sandbox.filesystem.write(f"{directory}/large", content)
        told = sandbox.exec(f"sha256sum {directory}/large").stdout.split()[0]
        assert told == hashlib.sha256(content).hexdigest()
        assert sandbox.filesystem.read(f"{directory}/large") == content
        sandbox.exec(f"rm {directory}/large")


@program
def logs_are_lines(directory: str) -> None:
    with make() as sandbox:
        assert all("\n" not in line for line in sandbox.logs())
        assert all(isinstance(line, str) for line in sandbox.logs(stream="stdout"))


@program
def followed_logs_end_with_the_sandbox(directory: str) -> None:
    sandbox = make()
    end = threading.Timer(2.0, sandbox.kill)
    end.start()
    began = time.monotonic()
    try:
        for line in sandbox.logs(follow=True):
            assert "\n" not in line
    finally:
        end.join()
    assert time.monotonic() - began < 20


@program
def lifecycle_can_be_asked_and_changed(directory: str) -> None:
    with Sandbox.create(template="base", ttl_seconds=77) as sandbox:
        told = sandbox.lifecycle()
        assert (told["ttl_seconds"], told["persistent"]) == (77, False)
        assert told["idle_seconds"] >= 0
        assert sandbox.set_ttl(99)["ttl_seconds"] == 99
        assert sandbox.set_persistent(True)["persistent"] is True
        assert sandbox.persistent
        assert sandbox.set_persistent(False)["persistent"] is False
        must_fail(BadRequestError, lambda: sandbox.set_ttl(-1))


@program
def an_idle_sandbox_ends(directory: str) -> None:
    sandbox = Sandbox.create(template="base", ttl_seconds=2)
    sandbox.exec("sleep 5; echo still here", check=True)
    deadline = time.monotonic() + 30
    while any(each.id == sandbox.id for each in Sandbox.list()):
        assert time.monotonic() < deadline, "it was not reaped"
        time.sleep(0.5)


@program
def pause_and_resume(directory: str) -> None:
    with make() as sandbox:
        sandbox.exec(f"echo kept > {directory}/kept")
        sandbox.pause()
        assert sandbox.refresh().status == "paused"
        must_fail(BadRequestError, lambda: sandbox.exec("true"))
        sandbox.resume()
        assert sandbox.refresh().status == "running"
        assert sandbox.exec(f"cat {directory}/kept").stdout == "kept\n"


@program
def tokens_open_and_close_doors(directory: str) -> None:
    client = get_default_client()
    name = f"wire-{uuid.uuid4().hex[:8]}"
    made = client.tokens.create(name, expires_in_days=1)
    assert made.token
    assert made.token.startswith(made.prefix)
    assert made.name == name
    assert made.created_at
    found = {token.prefix: token for token in client.tokens.list()}
    assert found[made.prefix].name == name
    assert found[made.prefix].token is None
    other = Client(api_url=client.api_url, api_key=made.token)
    assert isinstance(other.sandboxes.list(), list)
    client.tokens.revoke(made.prefix)
    must_fail(AuthError, other.sandboxes.list)
    must_fail(NotFoundError, lambda: client.tokens.revoke(made.prefix))


@program
def templates_can_be_used(directory: str) -> None:
    client = get_default_client()
    listed = client.templates.list()
    assert "base" in [template.name for template in listed]
    one = client.templates.get("base")
    assert one.name == "base"
    assert one.cpu
    assert one.memory_mb
    must_fail(NotFoundError, lambda: client.templates.get("no-such-template"))
    with Sandbox.create(template=listed[0].name) as sandbox:
        assert sandbox.exec("echo first").stdout == "first\n"


@program
def the_caller_is_known(directory: str) -> None:
    told = get_default_client().me()
    assert {"user_id", "email", "current_org", "orgs", "auth_method"} <= set(told)


@program
def errors_are_of_the_right_kind(directory: str) -> None:
    url = os.environ["PANDASTACK_API"]
    must_fail(AuthError, Client(api_url=url, api_key="pds_00000000000000000000000000000000").sandboxes.list)
    must_fail(AuthError, Client(api_url=url, api_key="").sandboxes.list)
    must_fail(APIConnectionError, Client(api_url="http://127.0.0.1:9", api_key="k").sandboxes.list)
    must_fail(NotFoundError, lambda: Sandbox.get(str(uuid.uuid4())))
    must_fail(NotFoundError, lambda: Sandbox.get("no such id"))
    refused = must_fail(PandastackError, lambda: Sandbox.create(template="no-such-template"))
    assert isinstance(refused, NotFoundError | BadRequestError)
    assert "no-such-template" in str(refused)
    must_fail(BadRequestError, lambda: Sandbox.create(template="base", ttl_seconds=-1))
    climbing = must_fail(PandastackError, lambda: Sandbox.create(template="../base"))
    assert isinstance(climbing, NotFoundError | BadRequestError)


@program
def the_address_may_name_the_version(directory: str) -> None:
    client = Client(api_url=os.environ["PANDASTACK_API"] + "/v1", api_key=os.environ["PANDASTACK_API_KEY"])
    set_default_client(client)
    with make() as sandbox:
        assert sandbox.exec("echo v1").stdout == "v1\n"


@program
def many_threads_share_a_client(directory: str) -> None:
    with make() as sandbox:
        heard: list[str] = []
        threads = [
            threading.Thread(target=lambda n=n: heard.append(sandbox.exec(f"sleep 0.2; echo {n}").stdout))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(heard) == [f"{n}\n" for n in range(8)]


@program
def a_full_house_is_final(directory: str) -> None:
    """For a server whose quota is one sandbox."""
    with make():
        began = time.monotonic()
        must_fail(BadRequestError, make)
        assert time.monotonic() - began < 1


@program
def a_long_line_is_worth_waiting_in(directory: str) -> None:
    """For a server that starts one sandbox at a time and lets nobody wait in line."""
    events: list[CreateRetryEvent] = []
    client = Client(on_create_retry=events.append)
    made: list[Sandbox] = []
    threads = [threading.Thread(target=lambda: made.append(create_on(client))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({sandbox.id for sandbox in made}) == 6
    assert events
    assert {event.status_code for event in events} == {503}
    assert all(event.retry_after_seconds is not None for event in events)
    assert len(client.sandboxes.list()) == 6
    for sandbox in made:
        sandbox.kill()
    impatient = Client(max_create_retry_seconds=0)
    outcomes: list[object] = []
    threads = [threading.Thread(target=lambda: outcomes.append(outcome(impatient))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(isinstance(each, ServerError) for each in outcomes)


def create_on(client: Client) -> Sandbox:
    return client.sandboxes.create("base")


def outcome(client: Client) -> object:
    try:
        client.sandboxes.create("base").kill()
    except PandastackError as error:
        return error
    return None
