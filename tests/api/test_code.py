"""Code contexts over a kernel that does as it is told, however ill that is."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from pandastack.jupyter import places
from pandastack.services.cells import TEXT_MOST
from tests.api.conftest import World
from tests.api.fake_kernel import KEY, FakeKernel

pytestmark = pytest.mark.anyio

NOBODY = str(uuid.UUID(int=0))


@pytest.fixture
async def kernel(world: World) -> AsyncIterator[FakeKernel]:
    """Ends before the world does."""
    async with FakeKernel().serving() as kernel:
        yield kernel


@pytest.fixture
def session(kernel: FakeKernel, box: str) -> Iterator[str]:
    """Where its context is; the folders of guests that are processes are this machine's."""
    folder = Path(places.ROOT) / str(uuid.uuid4())
    folder.mkdir(parents=True)
    (folder / "session.json").write_bytes(b'{"language": "python"}')
    (folder / "connection.json").write_bytes(msgspec.json.encode(kernel.file))
    (folder / "exit").write_bytes(b"")
    yield f"/v1/sandboxes/{box}/repl/sessions/{folder.name}"
    shutil.rmtree(folder)


async def cell(world: World, session: str, code: str, status: int = 200, **more: int) -> dict[str, Any]:
    answer = await world.http.post(f"{session}/run", json={"code": code, **more})
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def dead(session: str, code: str) -> None:
    """As whoever started the kernel notes its end."""
    (Path(places.ROOT) / session.rpartition("/")[2] / "exit").write_text(code)


async def test_what_cells_show_is_answered(world: World, session: str) -> None:
    told = await cell(world, session, "shout")
    assert (told["stdout"], told["stderr"], told["exit"], told["truncated"]) == ("out", "err", 0, False)
    told = await cell(world, session, "show")
    assert (told["results"], told["main"], told["language"]) == ([{"text/plain": "42"}], 0, "python")
    told = await cell(world, session, "raise")
    assert (told["error"], told["exit"]) == ("E: v", 1)
    assert told["error_detail"] == {"name": "E", "value": "v", "traceback": ["E: v"]}
    found = (await world.http.get(session.rpartition("/")[0])).json()
    assert [one["cells"] for one in found if one["id"] in session] == [3]


async def test_a_stream_tells_each_thing_as_it_comes(world: World, session: str) -> None:
    async def records(code: str) -> list[str]:
        answer = await world.http.post(f"{session}/run/stream", json={"code": code})
        return [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]

    assert await records("shout") == ["stdout", "stderr", "end"]
    assert await records("show") == ["result", "end"]
    assert await records("raise") == ["error", "end"]
    answer = await world.http.post(f"{session}/run/stream", json={"code": "wait", "timeout_ms": 100})
    assert "timeout" in answer.text
    assert "event: end" not in answer.text


async def test_a_timeout_interrupts_and_one_that_is_not_heard_says_so(world: World, session: str) -> None:
    told = await cell(world, session, "wait", 500, timeout_ms=200)
    assert told["error"].startswith("cell timeout: exceeded 0.2s; it was interrupted")
    assert (await cell(world, session, "show"))["results"]
    began = time.monotonic()
    told = await cell(world, session, "deaf", 500, timeout_ms=200)
    assert "restart its context" in told["error"]
    assert time.monotonic() - began < 15


async def test_cells_of_one_context_run_one_behind_the_other(
    world: World, session: str, kernel: FakeKernel
) -> None:
    first = asyncio.create_task(cell(world, session, "wait", timeout_ms=0))
    while not kernel.cells:
        await asyncio.sleep(0.01)
    others = [asyncio.create_task(cell(world, session, "show")) for _ in range(3)]
    await asyncio.sleep(0.2)
    assert kernel.cells == ["wait"]
    assert (await world.http.post(f"{session}/interrupt")).status_code == 204
    await first
    assert [told["results"] for told in await asyncio.gather(*others)] == [[{"text/plain": "42"}]] * 3


async def test_a_flood_and_what_is_too_large_are_cut(world: World, session: str) -> None:
    told = await cell(world, session, "flood", timeout_ms=0)
    assert told["truncated"] is True
    assert 0 < len(told["stdout"]) <= TEXT_MOST
    told = await cell(world, session, "huge")
    assert (told["truncated"], told["results"]) == (True, [])
    assert (await cell(world, session, "show"))["truncated"] is False


async def test_what_is_not_signed_or_anothers_is_not_shown(world: World, session: str) -> None:
    assert (await cell(world, session, "foreign"))["stdout"] == ""


@pytest.mark.parametrize("code", ["garbage", "leave"])
async def test_a_kernel_that_breaks_off_is_told_with_its_end(world: World, session: str, code: str) -> None:
    dead(session, "137\n")
    told = await cell(world, session, code, 500)
    assert told["code"] == "kernel.died"
    assert "signal 9 (out of memory?)" in told["error"]
    dead(session, "")
    assert (await cell(world, session, "show"))["results"]  # it was somebody else


async def test_a_kernel_that_breaks_off_and_lives_is_reached_again(world: World, session: str) -> None:
    told = await cell(world, session, "leave", 500)
    assert "cannot be reached" in told["error"]
    assert (await cell(world, session, "show"))["results"]


async def test_a_client_that_leaves_has_its_cell_interrupted(
    world: World, session: str, kernel: FakeKernel
) -> None:
    running = asyncio.create_task(cell(world, session, "wait", timeout_ms=0))
    while not kernel.cells:
        await asyncio.sleep(0.01)
    running.cancel()
    assert (await cell(world, session, "show", timeout_ms=5000))["results"]


NONSENSE = (
    b"",
    b"no json",
    b"[" * 50_000,
    b'{"shell_port": 0}',
    b'{"shell_port": 70000, "iopub_port": 1, "stdin_port": 1, "control_port": 1, "hb_port": 1, "key": ""}',
    b"{" + b" " * (1 << 20) + b"}",
)


@pytest.mark.parametrize("words", NONSENSE, ids=range(len(NONSENSE)))
async def test_files_of_a_guest_may_hold_anything(world: World, session: str, words: bytes) -> None:
    folder = Path(places.ROOT) / session.rpartition("/")[2]
    (folder / "connection.json").write_bytes(words)
    assert (await cell(world, session, "show", 500))["code"] == "kernel.died"
    (folder / "session.json").write_bytes(words)
    assert (await cell(world, session, "show", 404))["error"].startswith("session not found")


@pytest.mark.parametrize("context", [NOBODY, "spare-python", "..", "a" * 200, "%2e%2e"])
async def test_what_is_no_context_is_not_found(world: World, box: str, context: str) -> None:
    path = f"/v1/sandboxes/{box}/repl/sessions/{context}"
    for method, verb in (("POST", "/run"), ("POST", "/interrupt"), ("POST", "/restart"), ("DELETE", "")):
        answer = await world.http.request(
            method, f"{path}{verb}", json={"code": "1"} if verb == "/run" else None
        )
        assert answer.status_code in (404, 405), answer.text


async def test_a_sandbox_without_kernels_says_what_has_them(world: World, box: str) -> None:
    answer = await world.http.post(f"/v1/sandboxes/{box}/repl/sessions", json={"language": "cobol"})
    assert answer.status_code == 409
    assert "code-interpreter" in answer.json()["error"]
    answer = await world.http.post(f"/v1/sandboxes/{box}/repl", json={"language": "cobol", "code": "1"})
    assert answer.status_code == 409
    assert (await world.http.get("/v1/repl/languages")).json() == ["bash", "javascript", "python"]


async def test_others_do_not_find_it(foreigner: httpx2.AsyncClient, session: str) -> None:
    assert (await foreigner.post(f"{session}/run", json={"code": "show"})).status_code == 404
    assert (await foreigner.get(session.rpartition("/")[0])).status_code == 404


async def test_the_key_of_a_kernel_is_told_nowhere(
    world: World, session: str, capfd: pytest.CaptureFixture[str]
) -> None:
    told = await cell(world, session, "show")
    answer = await world.http.get(session.rpartition("/")[0])
    out, error = capfd.readouterr()
    assert KEY not in str(told) + answer.text + out + error
