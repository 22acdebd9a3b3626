"""Terminals by name: several look at one, leave it, come back to it; a slow one holds nobody up."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import InvalidStatus

from pandastack.api.server import serving
from pandastack.model.account import Caller, Scope
from pandastack.services.terminals import Terminals
from pandastack.services.viewers import BACKLOG, VIEWERS_MOST, Ended, Lagged
from pandastack.testing.fixtures import eventually
from tests.api.conftest import World
from tests.api.terminals import Eyes, known, looking, opened

pytestmark = pytest.mark.anyio

KEPT = 65_536
"""Bytes of output that the guest keeps for who comes back."""


async def test_a_terminal_goes_on_without_viewers_and_is_seen_again(world: World, url: str, box: str) -> None:
    made = await opened(world, box, rows=30, cols=100)
    assert (made["name"], made["running"], made["viewers"]) == ("main", True, 0)
    async with looking(url, box, "main") as eyes:
        assert (await eyes.notice("attached"))["size"] == {"rows": 30, "cols": 100}
        await eyes.type("stty -echo; echo first; stty size; cd /; x=kept")
        await eyes.until(b"first\r\n30 100\r\n")
        assert (await known(world, box))["main"]["viewers"] == 1
    async with looking(url, box, "main") as eyes:
        replay = (await eyes.notice("attached"))["replay_bytes"]
        await eyes.notice("live")
        assert len(eyes.text) == replay
        assert b"first\r\n30 100\r\n" in eyes.text
        await eyes.type("echo $PWD $x $TERM")
        await eyes.until(b"/ kept xterm-256color\r\n")


async def test_every_viewer_is_told_the_exit_code(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with looking(url, box, "main") as one, looking(url, box, "main", read_only="true") as two:
        await one.type("exit 7")
        assert await one.notice("exit") == 7
        assert await two.notice("exit") == 7
    ended = (await known(world, box))["main"]
    assert (ended["running"], ended["exit_code"], ended["viewers"]) == (False, 7, 0)
    async with looking(url, box, "main") as late:
        assert await late.notice("exit") == 7
        assert b"exit 7" in late.text


async def test_who_sets_the_size_last_decides_and_the_others_are_told(
    world: World, url: str, box: str
) -> None:
    await opened(world, box)
    async with looking(url, box, "main", rows=20, cols=60) as one:
        assert (await one.notice("attached"))["size"] == {"rows": 20, "cols": 60}
        async with looking(url, box, "main", rows=40, cols=120) as two:
            assert await one.notice("resize") == {"rows": 40, "cols": 120}
            await two.type("stty size")
            await two.until(b"40 120")
            await one.resize(21, 61)
            assert await two.notice("resize") == {"rows": 21, "cols": 61}
            await two.type("stty size")
            await one.until(b"21 61")
        assert [each for each in one.notices if "resize" in each] == [{"resize": {"rows": 40, "cols": 120}}]


async def test_one_who_only_looks_cannot_type_or_resize(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with (
        looking(url, box, "main") as one,
        looking(url, box, "main", read_only="true", rows=9, cols=9) as two,
    ):
        await two.type("echo intruder")
        assert "only looks" in await two.notice("error")
        two.notices.clear()
        await two.resize(9, 9)
        assert "only looks" in await two.notice("error")
        await one.type("stty size; echo do''ne")
        await two.until(b"done\r\n")
        assert b"24 80" in two.text and b"intruder" not in two.text


async def test_replay_is_bounded_and_ends_with_the_newest(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with looking(url, box, "main") as eyes:
        await eyes.type("stty -echo; seq 100000; echo the''end")
        await eyes.until(b"theend")
    async with looking(url, box, "main") as eyes:
        assert (await eyes.notice("attached"))["replay_bytes"] == KEPT
        await eyes.notice("live")
        assert len(eyes.text) == KEPT
        assert b"99999\r\n100000\r\ntheend\r\n" in eyes.text


async def test_a_slow_viewer_holds_nobody_up_and_is_told_what_it_missed(
    world: World, url: str, box: str
) -> None:
    await opened(world, box)
    count = 3_000_000
    async with looking(url, box, "main") as slow, looking(url, box, "main") as quick:
        await slow.notice("live")
        await quick.type(f"stty -echo -opost; seq {count} | tail -c 20000000; echo the''end")
        seen = await asyncio.wait_for(counted(quick, b"theend"), 120)  # while the other takes nothing
        assert seen > 16 << 20
        lagged = await slow.notice("lagged")
        assert lagged["replay_bytes"] == KEPT and lagged["skipped_bytes"] > 0
        await slow.until(f"{count}\ntheend".encode())
        await slow.type("echo still here")  # it may type as ever
        await quick.until(b"still here")


async def counted(eyes: Eyes, words: bytes) -> int:
    """How many bytes came until these words did, keeping none of them."""
    seen = 0
    while words not in eyes.text:
        await eyes.see()
        if len(eyes.text) > 1 << 20:
            seen += len(eyes.text) - 100
            eyes.text = eyes.text[-100:]
    return seen + len(eyes.text)


async def test_who_is_a_little_behind_comes_back_without_a_gap(world: World, box: str) -> None:
    """The output is larger than what may wait, by less than what the guest keeps."""
    terminals = Terminals(world.control.plane.sandboxes, lambda: "unused")
    caller = Caller("default", "pds_0", Scope.ADMIN)
    await opened(world, box)
    lines = b"".join(b"%d\n" % number for number in range(1, 46_001))
    assert BACKLOG < len(lines) < BACKLOG + KEPT // 2
    async with (
        terminals.view(caller, box, "main") as slow,
        terminals.view(caller, box, "main", size=(24, 80)) as quick,
    ):
        await quick.write(b"stty -echo -opost; PS1=; seq 46000; exit 0\n")
        seen = [[each async for each in viewer.frames()] for viewer in (quick, slow)]
    for items in seen:
        assert not any(isinstance(each, Lagged) for each in items)
        assert items[-1] == Ended(0)
        assert lines in b"".join(each for each in items if isinstance(each, bytes))


async def test_alone_a_slow_viewer_misses_nothing(world: World, url: str, box: str) -> None:
    """The control of the test above: without others it is the program that waits."""
    await opened(world, box)
    async with looking(url, box, "main") as slow:
        await slow.notice("live")
        await slow.type("stty -echo -opost; seq 1000000 | tail -c 5000000; echo the''end")
        await asyncio.sleep(2)
        assert await counted(slow, b"theend") > 5_000_000
        assert not any("lagged" in each for each in slow.notices)


async def test_interrupt_reaches_a_program_that_floods(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with looking(url, box, "main") as eyes:
        await eyes.type("stty -echo; yes; echo stop''ped")
        await eyes.until(b"y\r\ny\r\n")
        await eyes.connection.send(b"\x03")
        await counted(eyes, b"$ ")
        await eyes.type("echo after $?")
        await counted(eyes, b"after 130")


async def test_names_are_unique_while_they_run(world: World, box: str) -> None:
    path = f"/v1/sandboxes/{box}/terminals"
    await opened(world, box)
    again = await world.http.post(path, json={"name": "main"})
    assert again.status_code == 409 and "'main' runs" in again.json()["error"]
    answers = await asyncio.gather(
        *(world.http.post(path, json={"name": "race", "cmd": "cat"}) for _ in range(5))
    )
    assert sorted(each.status_code for each in answers) == [201, 409, 409, 409, 409]
    assert (await world.http.delete(f"{path}/main")).status_code == 204
    assert (await known(world, box))["main"]["exit_code"] == 129
    assert (await opened(world, box))["running"]
    unnamed = (await world.http.post(path, json={"cmd": "sleep 100"})).json()
    assert unnamed["command"] == "sleep 100" and len(unnamed["name"]) == 8
    assert set(await known(world, box)) == {"main", "race", unnamed["name"]}


async def test_end_kills_what_does_not_want_to_end(world: World, url: str, box: str) -> None:
    await opened(world, box, cmd="trap '' HUP TERM; echo deaf; while :; do sleep 1; done")
    async with looking(url, box, "main") as eyes:
        await eyes.until(b"deaf")
        path = f"/v1/sandboxes/{box}/terminals/main"
        assert (await world.http.delete(path)).status_code == 204
        assert await eyes.notice("exit") == 137
        assert (await world.http.delete(path)).status_code == 204  # fine when it has ended


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "Upper"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"rows": 0}, "rows"),
        ({"user": "nobody-here"}, "no such user"),
        ({"cwd": "/nowhere"}, "/nowhere"),
        ({"shell": "sh"}, "unknown field"),
    ],
)
async def test_what_cannot_be_a_terminal_is_refused(
    world: World, box: str, body: dict[str, object], words: str
) -> None:
    answer = await world.http.post(f"/v1/sandboxes/{box}/terminals", json=body)
    assert answer.status_code == 400 and words in answer.json()["error"]
    assert not await known(world, box)


async def test_nobody_finds_what_is_not_there_or_not_theirs(world: World, url: str, box: str) -> None:
    await world.exec(box, "true")
    await world.http.post(f"/v1/sandboxes/{box}/processes", json={"cmd": "sleep 100"})
    for path in ("nothing", "terminal%2Fmain%2F0"):
        assert (await world.http.get(f"/v1/sandboxes/{box}/terminals/{path}")).status_code == 404
        assert (await world.http.delete(f"/v1/sandboxes/{box}/terminals/{path}")).status_code == 404
    with pytest.raises(InvalidStatus) as caught:
        async with looking(url, box, "nothing"):
            pytest.fail("it must not open")
    assert caught.value.response.status_code == 404
    assert not await known(world, box)


async def test_an_audience_has_a_limit(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with AsyncExitStack() as stack:
        for _ in range(VIEWERS_MOST):
            last = await stack.enter_async_context(looking(url, box, "main"))
        with pytest.raises(InvalidStatus) as caught:
            async with looking(url, box, "main"):
                pytest.fail("it must not open")
        assert caught.value.response.status_code == 429
        assert (await known(world, box))["main"]["viewers"] == VIEWERS_MOST
        assert (await world.exec(box, "echo as ever"))["stdout"] == "as ever\n"
        await last.type("exit")
        await last.notice("exit")
    async with looking(url, box, "main") as again:
        await again.notice("exit")


async def test_a_terminal_outlives_the_server(idle_world: World) -> None:
    world = idle_world
    await world.start()
    box = (await world.create())["id"]
    await opened(world, box, rows=33, cols=99)
    async with serving(world.control, "127.0.0.1:0") as url, looking(url, box, "main") as eyes:
        await eyes.type("x=before; echo rea''dy")
        await eyes.until(b"ready")
    await world.stop()
    await world.start()
    assert (await known(world, box))["main"]["running"]
    async with serving(world.control, "127.0.0.1:0") as url, looking(url, box, "main") as eyes:
        assert (await eyes.notice("attached"))["size"] == {"rows": 33, "cols": 99}
        await eyes.until(b"ready")
        await eyes.type("echo $x it is")
        await eyes.until(b"before it is")


async def test_only_an_audience_keeps_a_sandbox_awake(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with looking(url, box, "main") as eyes:
        await eyes.notice("live")
        world.time.passes(1000)
        await world.control.plane.reaper.reap()
        assert (await world.http.get(f"/v1/sandboxes/{box}")).status_code == 200
        why = (await world.http.get(f"/v1/sandboxes/{box}/why-awake")).json()
        assert [each["kind"] for each in why["reasons"]] == ["terminal"]
    await asyncio.sleep(0.1)
    world.time.passes(1000)
    await world.control.plane.reaper.reap()
    assert (await world.http.get(f"/v1/sandboxes/{box}")).status_code == 404


async def test_bad_frames_are_answered_and_harm_nothing(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with looking(url, box, "main") as eyes:
        for frame in ("{", json.dumps({"resize": {"rows": 0, "cols": 1}}), json.dumps({"stdin": 1})):
            eyes.notices.clear()
            await eyes.connection.send(frame)
            assert "bad json" in await eyes.notice("error")
        await eyes.connection.send(json.dumps({"stdin": "echo it wor''ks\n"}))
        await eyes.until(b"it works")


async def test_a_sandbox_that_ends_tells_its_viewers(world: World, url: str, box: str) -> None:
    await opened(world, box)
    async with looking(url, box, "main") as eyes:
        await eyes.notice("live")
        await world.http.delete(f"/v1/sandboxes/{box}")
        assert box in await eyes.notice("error")
        await eventually(lambda: eyes.connection.close_code is not None)
