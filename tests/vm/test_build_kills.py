"""Builds that are cut off: their server is killed in the middle of them, or their machine."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pandastack.failpoint import POINTS
from pandastack.testing.fixtures import processes_with
from tests.vm.yard import Yard
from tests.wire.images import packed, root_tree

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(900)]

BUILD = "/v1/templates/build"
BUILDS = "/v1/templates/builds"
OWN = "/v1/templates/own"
SLOW = "FROM scratch\nADD rootfs.tar /\nRUN echo under way; sleep 600\n"
QUICK = "FROM scratch\nADD rootfs.tar /\n"
GONE_SECONDS = 60.0
PATIENCE_SECONDS = 240.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return packed(root_tree(tmp_path_factory.mktemp("root")))


async def begin(yard: Yard, root: bytes, dockerfile: str, **fields: str) -> str:
    """The id of a build that has begun."""
    told = {"name": "own", "dockerfile": dockerfile, "size_mb": "96", "replace": "true", **fields}
    answer = await yard.http.post(BUILD, data=told, files={"rootfs.tar": ("rootfs.tar", root)}, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def build_of(yard: Yard, build_id: str) -> dict[str, Any]:
    return dict((await yard.http.get(f"{BUILDS}/{build_id}")).json())


async def said(yard: Yard, build_id: str, words: str) -> None:
    """Return when a build has said these words."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while words not in (await yard.http.get(f"{BUILDS}/{build_id}/logs")).text:
            build = await build_of(yard, build_id)
            assert build["ended_at"] is None, build["error"]
            await asyncio.sleep(0.2)


async def ended(yard: Yard, build_id: str) -> dict[str, Any]:
    """A build when it has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (build := await build_of(yard, build_id))["ended_at"] is None:
            await asyncio.sleep(0.2)
    return build


def kept(yard: Yard, folder: str) -> list[Path]:
    return [entry for entry in (yard.state / folder).iterdir() if not entry.name.startswith(".")]


async def nothing_is_left(yard: Yard, images: int = 0) -> None:
    """Of a build that was cut off there is its record, and the layers."""
    assert (await yard.http.get("/v1/sandboxes")).json() == []
    async with asyncio.timeout(GONE_SECONDS):
        while kept(yard, "v") or len(kept(yard, "w")) > 1 or len(kept(yard, "i")) > images:
            await asyncio.sleep(0.2)
    assert not any((yard.state / "builds").iterdir())
    if not images:  # of one that is there its fork server runs
        for process in processes_with(str(yard.state / "i")):
            assert "qemu" not in Path(f"/proc/{process}/cmdline").read_text(), "what was baked"


async def was_cut_off(yard: Yard, build_id: str, when: str, images: int = 0) -> None:
    """The server ended in the middle of it: that is told, and nothing else is there of it."""
    found = await build_of(yard, build_id)
    assert (found["status"], found["code"]) == ("failed", "build.interrupted"), when
    await nothing_is_left(yard, images)


MOMENTS = {
    "building": (SLOW, "under way", ""),
    "laid out": (QUICK, "", "build.laid_out"),
    "baking": (QUICK, "— baking", ""),
    "baked": (QUICK, "", "build.baked"),
}
VERIFYING = [point for point in POINTS if point.startswith("verify.")]


async def test_a_server_that_is_killed_leaves_nothing_of_a_build(yard: Yard, root: bytes) -> None:
    """Nor of one that verifies what another one has made, which is as it was."""
    for words, (dockerfile, line, point) in MOMENTS.items():
        async with yard.life(f"{point}=sleep:600" if point else ""):
            build = await begin(yard, root, dockerfile, ready="sleep 3")
            if point:
                await yard.reached(point, PATIENCE_SECONDS)
            else:
                await said(yard, build, line)
                await asyncio.sleep(1.0 if words == "baking" else 0.0)
            yard.kill()
        async with yard.life():
            await was_cut_off(yard, build, words)
    verifying = ""
    for point in VERIFYING:
        async with yard.life(f"{point}=sleep:600"):
            if verifying:
                await was_cut_off(yard, verifying, point, images=1)
            else:
                done = await ended(yard, await begin(yard, root, QUICK))
                assert (done["status"], done["error"]) == ("done", None)
            verifying = (await yard.call("POST", f"{OWN}/verify", status=202))["id"]
            await yard.reached(point, PATIENCE_SECONDS)
            yard.kill()
    async with yard.life(leave="destroy"):
        await was_cut_off(yard, verifying, "verified", images=1)
        assert (await yard.call("GET", f"{OWN}/bill"))["verifiable"]
        made = await yard.call("POST", "/v1/sandboxes", {"template": "own"}, 201)
        assert await yard.say(made["id"], "echo fine") == "fine\n"
        await yard.call("DELETE", f"/v1/sandboxes/{made['id']}", status=204)
        await nothing_is_left(yard, images=1)
        await yard.call("DELETE", OWN, status=204)
        await nothing_is_left(yard)


async def test_a_machine_that_is_killed_ends_its_build(yard: Yard, root: bytes) -> None:
    async with yard.life(leave="destroy"):
        build = await begin(yard, root, SLOW)
        await said(yard, build, "under way")
        (builder,) = kept(yard, "v")
        os.kill(yard.process_of(builder.name), signal.SIGKILL)
        found = await ended(yard, build)
        assert found["status"] == "failed"
        assert "signal 9" in found["error"], found
        await nothing_is_left(yard)
        crash = "FROM scratch\nADD rootfs.tar /\nRUN echo c > /proc/sysrq-trigger; sleep 600\n"
        found = await ended(yard, await begin(yard, root, crash, timeout_seconds="60"))
        assert found["status"] == "failed", found
        await nothing_is_left(yard)
        done = await ended(yard, await begin(yard, root, QUICK))
        assert (done["status"], done["error"]) == ("done", None)
