"""Commands that run to their end, and processes in the background."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pandastack.testing.fixtures import eventually, processes_with
from tests.api.conftest import World, timeless

pytestmark = pytest.mark.anyio


async def refused(world: World, box: str, **body: object) -> httpx2.Response:
    answer = await world.http.post(f"/v1/sandboxes/{box}/exec", json=body)
    assert answer.status_code >= 400
    return answer


async def test_a_result_is_whole(world: World, box: str) -> None:
    result = await world.exec(box, "echo out; echo err >&2; exit 3")
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
    assert result["exit_code"] == result["exit"] == 3
    assert isinstance(result["duration_ms"], int) and result["guest_ms"] > 0
    assert result["truncated"] is False


async def test_a_list_is_run_as_it_is(world: World, box: str) -> None:
    assert (await world.exec(box, ["printf", "%s|", "a b", "$HOME"]))["stdout"] == "a b|$HOME|"
    assert (await world.exec(box, "printf", args=["%s", "a b"]))["stdout"] == "a b"


async def test_where_as_whom_and_with_what(world: World, box: str, tmp_path: Path) -> None:
    result = await world.exec(box, "pwd; echo $A; id -un; cat", cwd=str(tmp_path), env={"A": "ü"}, stdin="in")
    assert result["stdout"] == f"{tmp_path}\nü\nroot\nin"
    assert (await world.exec(box, "id -un", user="nobody"))["stdout"] == "nobody\n"


async def test_much_stdin_and_much_output_at_once(world: World, box: str) -> None:
    text = "0123456789abcdef" * 65536
    assert (await world.exec(box, "cat", stdin=text))["stdout"] == text


async def test_stdin_may_be_any_bytes(world: World, box: str) -> None:
    data = bytes(range(256)) * 1000
    result = await world.exec(box, "sha256sum", stdin_base64=b64encode(data).decode())
    assert result["stdout"].split()[0] == sha256(data).hexdigest()
    assert (await world.exec(box, "wc -c", stdin_base64=""))["stdout"] == "0\n"


async def test_stdin_that_nobody_reads_holds_nothing_up(world: World, box: str) -> None:
    assert (await world.exec(box, "true", stdin="x" * 2_000_000))["exit_code"] == 0


async def test_bytes_that_are_no_text_become_replacement_characters(world: World, box: str) -> None:
    assert (await world.exec(box, ["printf", r"a\377b"]))["stdout"] == "a\N{REPLACEMENT CHARACTER}b"


async def test_of_too_much_output_the_last_is_kept(idle_world: World) -> None:
    await idle_world.start(max_output_bytes=1000)
    box = (await idle_world.create())["id"]
    result = await idle_world.exec(box, "seq 1 1000; echo end")
    assert result["truncated"] is True
    assert len(result["stdout"]) == 1000 and result["stdout"].endswith("999\n1000\nend\n")


async def test_a_signal_is_128_and_its_number(world: World, box: str) -> None:
    assert (await world.exec(box, "kill -TERM $$"))["exit_code"] == 143


async def test_a_program_that_is_not_there_is_127(world: World, box: str) -> None:
    result = await world.exec(box, ["/nowhere/at/all"])
    assert result["exit_code"] == 127 and result["stderr"]


async def test_a_command_is_killed_at_its_deadline_with_all_its_children(
    world: World, box: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    sleeper = f"sh -c 'sleep 100; :' {tmp_path}"
    answer = await refused(world, box, cmd=f"{sleeper} & {sleeper}", timeout_seconds=0.3)
    assert answer.status_code == 500
    assert answer.json()["error"] == "command timeout: exceeded 0.3s"
    assert answer.json()["code"] == "command.timeout"
    assert time.monotonic() - began < 5
    await eventually(lambda: not processes_with(f"100; : {tmp_path}"))


async def test_a_deadline_reaches_a_child_with_a_session_of_its_own(
    world: World, box: str, tmp_path: Path
) -> None:
    sleeper = f"setsid sh -c 'sleep 100; :' {tmp_path}"
    answer = await refused(world, box, cmd=f"{sleeper} & sleep 100", timeout_seconds=0.4)
    assert answer.json()["code"] == "command.timeout"
    await eventually(lambda: not processes_with(f"100; : {tmp_path}"))


async def test_no_timeout_is_a_timeout_of_zero(world: World, box: str) -> None:
    assert (await world.exec(box, "sleep 0.05", timeout_seconds=0))["exit_code"] == 0


async def test_a_default_timeout_is_the_servers(idle_world: World) -> None:
    await idle_world.start(default_exec_timeout_seconds=0.2)
    box = (await idle_world.create())["id"]
    assert (await refused(idle_world, box, cmd="sleep 9")).json()["code"] == "command.timeout"


async def test_a_background_child_does_not_hold_the_answer_up(world: World, box: str, tmp_path: Path) -> None:
    began = time.monotonic()
    result = await world.exec(box, f"setsid sh -c 'sleep 3; :' {tmp_path} >/dev/null 2>&1 & echo started")
    assert result["stdout"] == "started\n" and time.monotonic() - began < 2
    await eventually(lambda: not processes_with(f"3; : {tmp_path}"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "lacks the field `cmd`"),
        ({"cmd": ""}, "cmd required"),
        ({"cmd": "  "}, "cmd required"),
        ({"cmd": []}, "cmd required"),
        ({"cmd": 5}, "`cmd` does not fit"),
        ({"cmd": "x", "cdw": "/"}, "did you mean 'cwd'"),
        ({"cmd": "x", "timeout_seconds": -1}, "timeout_seconds"),
        ({"cmd": "x", "cwd": "relative"}, "relative"),
        ({"cmd": "x", "cwd": "/no/such/directory"}, "cannot be entered"),
        ({"cmd": "x", "user": "nobody-at-all"}, "user"),
        ({"cmd": "x", "env": {"A": 1}}, "`env"),
        ({"cmd": "x", "stdin": "a", "stdin_base64": "YQ=="}, "give one of them"),
        ({"cmd": "x", "stdin_base64": "not base64"}, "`stdin_base64` does not fit"),
        ({"cmd": "x", "stdin": "a", "background": True}, "given no stdin here"),
    ],
)
async def test_what_cannot_be_run_is_refused_by_field(
    world: World, box: str, body: dict[str, object], words: str
) -> None:
    answer = await refused(world, box, **body)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]


async def test_many_commands_at_once_do_not_mix(world: World, box: str) -> None:
    results = await asyncio.gather(*(world.exec(box, f"echo {n}; sleep 0.05; echo {n}") for n in range(12)))
    assert [result["stdout"] for result in results] == [f"{n}\n{n}\n" for n in range(12)]


async def listed(world: World, box: str, process_id: str) -> dict[str, Any]:
    processes = (await world.http.get(f"/v1/sandboxes/{box}/processes")).json()
    return next(process for process in processes if process["id"] == process_id)


async def test_a_background_process_lives_by_itself_until_it_is_told_to_end(world: World, box: str) -> None:
    one = f"/v1/sandboxes/{box}"
    started = await world.http.post(f"{one}/exec", json={"cmd": "echo hi; sleep 100", "background": True})
    assert started.status_code == 201
    process_id = started.json()["process_id"]
    assert started.json()["pid"] == (await listed(world, box, process_id))["pid"]
    assert (await listed(world, box, process_id))["running"] is True
    signalled = await world.http.post(f"{one}/processes/{process_id}/signal", json={"signal": "SIGTERM"})
    assert signalled.status_code == 204
    stream = await world.http.get(f"{one}/processes/{process_id}/stream")
    assert b'event: stdout\ndata: {"chunk":"hi\\n"}\n\n' in stream.content
    assert timeless(stream.content).endswith(b'event: exit\ndata: {"exit_code":143,"duration_ms":0}\n\n')
    assert (await listed(world, box, process_id))["exit_code"] == 143


async def test_processes_are_started_and_killed_by_their_own_route(world: World, box: str) -> None:
    path = f"/v1/sandboxes/{box}/processes"
    started = await world.http.post(path, json={"cmd": ["sleep", "100"]})
    assert started.status_code == 201
    one = f"{path}/{started.json()['process_id']}"
    assert (await world.http.delete(one)).status_code == 204
    stream = await world.http.get(f"{one}/stream")
    assert timeless(stream.content).endswith(b'{"exit_code":137,"duration_ms":0}\n\n')
    assert (await world.http.delete(one)).status_code == 404


@pytest.mark.parametrize(
    ("signal", "words"), [("NOPE", "no signal"), (0, "signal is 1"), (999, "signal is 1")]
)
async def test_a_signal_that_is_none_is_refused(world: World, box: str, signal: object, words: str) -> None:
    path = f"/v1/sandboxes/{box}/processes/x/signal"
    answer = await world.http.post(path, json={"signal": signal})
    assert answer.status_code == 400 and words in answer.json()["error"]


async def test_an_unknown_process_is_404(world: World, box: str) -> None:
    path = f"/v1/sandboxes/{box}/processes/nobody"
    assert (await world.http.get(f"{path}/stream")).status_code == 404
    assert (await world.http.post(f"{path}/signal", json={"signal": 9})).status_code == 404


async def test_a_command_keeps_its_sandbox_awake_while_it_runs(world: World, box: str) -> None:
    running = asyncio.ensure_future(world.exec(box, "sleep 0.5"))
    await asyncio.sleep(0.1)
    world.time.passes(1000)
    await world.control.plane.reaper.reap()
    assert (await running)["exit_code"] == 0
    assert (await world.http.get(f"/v1/sandboxes/{box}")).status_code == 200
