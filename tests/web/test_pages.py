"""What the pages show, and that they show it as text whatever it is."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from html.parser import HTMLParser

import pytest
from markupsafe import escape

from pandastack.model.restore import RestoreProof
from pandastack.model.sandbox import Lineage, SandboxState, TreeNode
from pandastack.store import accounts
from pandastack.web import family, proof
from pandastack.web.look import FOLDER
from pandastack.web.pages import Listing
from tests.api.conftest import World
from tests.api.test_life import pid_of, sandbox
from tests.api.test_state import post
from tests.web.conftest import Browser

pytestmark = pytest.mark.anyio

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></code><svg onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<base href=//evil.example>",
    "&lt;b&gt; {{ 7 * 7 }} {% raw %}",
)


VOID = frozenset({"meta", "link", "img", "input"})
"""Elements of these pages that have no end."""


class Dangers(HTMLParser):
    """What of a page could run, load or lead elsewhere, and what ends in another place than it began."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.found += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "style", "svg", "iframe", "object", "embed", "base"}:
            self.found.append(tag)
        for name, value in attrs:
            leads = name in {"href", "src", "action"} and not (value or "").startswith("/ui")
            if leads or name.startswith("on") or name == "style":
                self.found.append(f"{tag} {name}={value}")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.found.append(f"/{tag}")


async def hostile_world(world: World) -> str:
    """A sandbox whose every word is hostile: its id."""
    metadata = {"name": HOSTILE[0]} | {payload: payload for payload in HOSTILE}
    made = str((await world.create(checkpoints="exec", metadata=metadata))["id"])
    for payload in HOSTILE:
        await world.exec(made, ["echo", payload])
        await post(world, f"{made}/snapshots", {"name": payload, "comment": payload}, 201)
    return made


async def test_whatever_it_says_is_text(world: World, browser: Browser) -> None:
    made = await hostile_world(world)
    for path in ("/ui/sandboxes", f"/ui/sandboxes/{made}", "/ui/snapshots"):
        page = await browser.sees(path)
        shown = HOSTILE if path != "/ui/sandboxes" else HOSTILE[:1]
        for payload in shown:
            assert str(escape(payload)) in page and payload not in page
        assert not Dangers(page).found
        assert len(Dangers(html.unescape(page)).found) >= len(shown), "the search finds what is not escaped"


async def test_an_address_and_an_error_are_text_too(browser: Browser) -> None:
    for payload in HOSTILE[:2]:
        name = payload.replace("/", "")
        page = await browser.sees(f"/ui/sandboxes/{name}", 404)
        assert str(escape(name)) in page and not Dangers(page).found
        assert Dangers(html.unescape(page)).found
        await browser.sees(f"/ui/sandboxes?state={payload}", 400)


def test_no_template_passes_anything_unescaped() -> None:
    found = {path.name: path.read_text() for path in (FOLDER / "templates").iterdir()}
    assert found
    ours = r"(?! defer (nonce=\"\{\{ nonce \}\}\" )?src=\"\{\{ static\[)"
    unsafe = re.compile(rf"\|\s*safe|autoescape|Markup|\s[\w-]+=\{{\{{|<script{ours}|<style|style=|\bon\w+=")
    assert not [name for name, text in found.items() if unsafe.search(text)]
    assert not re.search(r"url\(|@import", (FOLDER / "static" / "style.css").read_text())


async def test_another_workspace_is_not_seen(world: World, browser: Browser, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", {"name": "mine"}, 201))["id"]
    plane = world.control.plane
    await plane.ground.database.write(partial(accounts.recount, workspace="other"))
    await plane.accounts.bootstrap("other", "pds_" + "f" * 32)
    assert box in await browser.sees("/ui/sandboxes") and taken in await browser.sees("/ui/snapshots")
    async with Browser(world) as foreigner:
        await foreigner.logs_in("pds_" + "f" * 32)
        await foreigner.sees(f"/ui/sandboxes/{box}", 404)
        assert "There is no sandbox yet" in await foreigner.sees("/ui/sandboxes")
        assert "No state is kept yet" in await foreigner.sees("/ui/snapshots")


async def test_looking_is_no_use(world: World, browser: Browser, box: str) -> None:
    asleep = str((await world.create())["id"])
    await post(world, f"{asleep}/hibernate")
    world.time.passes(200)
    pid = pid_of(world, box)
    for path in ("/ui/sandboxes", "/ui/snapshots", f"/ui/sandboxes/{box}", f"/ui/sandboxes/{asleep}"):
        await browser.sees(path)
    assert (await sandbox(world, asleep))["status"] == "hibernated"
    idle = (await world.http.get(f"/v1/sandboxes/{box}/lifecycle")).json()["idle_seconds"]
    assert idle >= 200 and pid_of(world, box) == pid


async def test_a_sandbox_is_shown_with_its_proof_and_its_relatives(
    world: World, browser: Browser, box: str
) -> None:
    tree = await post(world, f"{box}/fork-tree", {"count": 2}, 201)
    winner, loser = (child["id"] for child in tree["children"])
    await post(world, f"{winner}/promote", {"cleanup_siblings": True})
    page = await browser.sees(f"/ui/sandboxes/{winner}")
    told = (await sandbox(world, winner))["restore_proof"]
    for word in (told["machine_id"], told["hostname"], told["origin"], "★ winner", "this one", box, loser):
        assert word in page
    assert (
        "Random numbers" in page and "Not in order: Random numbers, Boot id." in page
    )  # no kernel of its own
    assert not Dangers(page).found
    gone = await browser.sees(f"/ui/sandboxes/{loser}")
    assert "deleted" in gone and "was promoted" in gone


async def test_states_and_kinds_and_parts_can_be_chosen(world: World, browser: Browser, box: str) -> None:
    assert box in await browser.sees("/ui/sandboxes?state=running")
    assert box not in await browser.sees("/ui/sandboxes?state=hibernated")
    assert box not in await browser.sees("/ui/sandboxes?page=2")
    await browser.sees("/ui/snapshots?kind=nonsense", 400)


def test_a_long_table_has_links_to_its_parts() -> None:
    first, last = (Listing("/ui/x", "state", None, {"running": 70, "failed": 60}, page) for page in (1, 2))
    assert (first.total, first.more, last.more) == (130, True, False)
    assert not Listing("/ui/x", "state", "failed", first.counts, 1).more


def marks(told: RestoreProof, *, cold: bool = False) -> dict[str, tuple[str, bool | None]]:
    return {item.what: (item.value, item.good) for item in proof.items(told, cold=cold)}


def test_each_item_of_a_proof_is_good_or_bad() -> None:
    whole = RestoreProof(
        origin="template",
        entropy_bytes=64,
        boot_id="b",
        machine_id="m",
        hostname="h",
        clock_step_ms=-1500,
        hooks_run=2,
        gate_ms=2.3,
        driver="qemu",
        driver_version="10",
        accel="tcg",
    )
    found = marks(whole)
    assert all(good for _, good in found.values())
    assert found["Wall clock"][0] == "set back by 1.5 s" and found["Machine monitor"][0] == "qemu 10"
    assert marks(whole, cold=True)["Disk"] == ("template", True) and "State" not in marks(whole, cold=True)
    bare = RestoreProof(origin="template", entropy_bytes=0, hooks_failed=["10-worker"])
    bad = {what for what, (_, good) in marks(bare).items() if good is False}
    assert bad == {
        *("Machine monitor", "Mode and processor", "Random numbers", "Boot id", "Machine id", "Host name"),
        "Programs",
    }


def test_a_lineage_of_any_depth_is_drawn() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def node(number: int, parent: int | None) -> TreeNode:
        above = None if parent is None else str(parent)
        at = began + timedelta(seconds=number)
        return TreeNode(str(number), above, SandboxState.RUNNING, "base", at, None, None)

    fan = Lineage("0", [node(0, None), node(2, 0), node(1, 0), node(3, 1), node(9, 77)])
    drawn = [(each.node.id, each.depth, each.opens, each.ends) for each in family.branches(fan)]
    assert drawn == [
        *(("0", 0, True, 0), ("1", 1, True, 0), ("3", 2, False, 1), ("2", 1, False, 1)),
        ("9", 0, False, 0),
    ]
    chain = [node(number, number - 1 if number else None) for number in range(5000)]
    deep = family.branches(Lineage("0", chain))
    assert len(deep) == family.SHOWN_MOST and deep[-1].ends == family.SHOWN_MOST - 1
