"""What a guest reaches: the internet, and nothing of its host's. Twenty targets by four protocols each."""

from __future__ import annotations

import subprocess
from contextlib import suppress

import pytest

from pandastack.host.app import LocalHost
from pandastack.host.network import namespace
from pandastack.model.egress import Egress, Internet
from pandastack.model.host import SnapshotSpec, VmReport, VmSpec
from tests.network.probe import reach
from tests.network.world import HOST_ADDRESS, PRIVATE, ROUTER, SERVERS, space_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

OPEN = {"tcp", "udp", "icmp"}
NOBODY = [
    "0.1.2.3",
    "255.255.255.255",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "198.18.0.1",
    "192.0.0.8",
    "10.0.2.255",
    "fe80::1",
    "fd00::2",
    "::ffff:169.254.169.254",
    "2001:db8::1",
]


async def start(host: LocalHost, name: str = "guest", egress: Egress | None = None) -> VmReport:
    return await host.start(VmSpec(name, "base", egress=egress or Egress()))


def targets(host: LocalHost, own: str, sibling: str) -> list[str]:
    """Twenty and more that no guest may reach: the host, its network, siblings, private ones, odd ones."""
    ways = [f"{address.rsplit('.', 1)[0]}.{int(address.rsplit('.', 1)[1]) - 1}" for address in (own, sibling)]
    return [HOST_ADDRESS, ROUTER, own, sibling, *ways, *PRIVATE, *NOBODY]


async def test_a_guest_reaches_the_internet_and_nothing_that_is_forbidden(host: LocalHost) -> None:
    guest, sibling = await start(host), await start(host, "sibling")
    forbidden = targets(host, guest.guest_ip, sibling.guest_ip)
    assert len(forbidden) >= 20
    found = await reach(host, "guest", *SERVERS, *forbidden)
    assert {name: found[name] for name in SERVERS} == dict.fromkeys(SERVERS, OPEN)
    assert {name: found[name] for name in forbidden if found[name]} == {}


async def test_no_policy_of_an_owner_allows_what_is_forbidden(host: LocalHost) -> None:
    wide = ("10.0.0.0/8", "169.254.0.0/16", "203.0.113.0/24", "172.16.0.0/12", "192.168.0.0/16")
    guest = await start(host, egress=Egress(allow_cidrs=wide))
    found = await reach(host, "guest", *targets(host, guest.guest_ip, "10.200.0.42"), *SERVERS)
    assert {name for name, how in found.items() if how} == set()


async def test_without_its_rules_the_same_is_reached(host: LocalHost) -> None:
    """The negative control: each of the two sets of rules stops it, and nothing else does."""
    await start(host)
    forbidden = [HOST_ADDRESS, *PRIVATE]
    for table in ("sandbox", "pandastack"):
        assert not any((await reach(host, "guest", *forbidden)).values())
        with suppress(subprocess.CalledProcessError):
            drop(table, space_of(host, "guest"))
    drop("pandastack input", "")
    found = await reach(host, "guest", *forbidden)
    assert all({"tcp", "udp", "icmp"} <= how for how in found.values()), found


def drop(what: str, space: str) -> None:
    """Have one of the two let everything through."""
    table, _, chain = what.partition(" ")
    within = ["nsenter", f"--net={namespace.path_of(space)}"] if table == "sandbox" else []
    chain = chain or ("prerouting" if table == "sandbox" else "forward")
    text = f"flush chain inet {table} {chain}\n"
    if chain == "forward":
        text += "add rule inet pandastack forward accept\n"
    subprocess.run([*within, "nft", "-f", "-"], input=text, text=True, check=True, timeout=10)


async def test_a_policy_holds_from_the_first_packet_on_and_can_be_changed(host: LocalHost) -> None:
    await start(host, egress=Egress(internet=Internet.OFF))
    assert not any((await reach(host, "guest", *SERVERS)).values())
    await host.set_egress("guest", Egress())
    assert set(map(frozenset, (await reach(host, "guest", *SERVERS)).values())) == {frozenset(OPEN)}
    first, second, third = SERVERS
    await host.set_egress(
        "guest", Egress(allow_cidrs=(f"{first}/32", f"{second}/32"), deny_cidrs=(f"{second}/32",))
    )
    assert await reach(host, "guest", *SERVERS) == {first: OPEN, second: set(), third: set()}
    await host.set_egress("guest", Egress(ports=("8-9",)))
    found = await reach(host, "guest", first)
    assert found[first] == {"icmp"}


async def test_rules_hold_in_every_life_of_a_machine(host: LocalHost) -> None:
    """Paused and resumed, gone on from a snapshot, forked: the policy of each is its own."""
    first, second, _ = SERVERS
    only_first = Egress(allow_cidrs=(f"{first}/32",))
    await start(host, egress=only_first)
    await host.pause("guest")
    await host.resume("guest")
    await host.snapshot(SnapshotSpec("kept", "guest"))
    await host.start(VmSpec("child", "base", snapshot="kept", egress=only_first))
    await host.start(VmSpec("open", "base", snapshot="kept"))
    for name, more in (("guest", set[str]()), ("child", set[str]()), ("open", OPEN)):
        assert await reach(host, name, first, second, HOST_ADDRESS) == {
            first: OPEN,
            second: more,
            HOST_ADDRESS: set(),
        }
    await host.drop_snapshot("kept")


async def test_what_was_reached_is_told(host: LocalHost) -> None:
    first, second, _ = SERVERS
    await start(host, egress=Egress(deny_cidrs=(f"{second}/32",)))
    await reach(host, "guest", first, second, HOST_ADDRESS)
    told = {(each.address, each.protocol): each for each in (await host.receipts("guest")).receipts}
    passed, refused = told[first, "tcp"], told[second, "udp"]
    assert (passed.allowed, passed.rule, passed.port) == (True, "default", 7)
    assert passed.bytes_out > 16 and passed.bytes_in > 16
    assert (refused.allowed, refused.rule, refused.connections) == (False, f"deny_cidrs: {second}/32", 1)
    assert not told[HOST_ADDRESS, "tcp"].allowed


async def test_a_slot_is_given_back_and_made_anew(host: LocalHost) -> None:
    first, _, _ = SERVERS
    addresses = set()
    for turn in range(12):
        addresses.add((await start(host, f"guest-{turn}")).guest_ip)
        if turn % 4 == 0:
            assert (await reach(host, f"guest-{turn}", first, patience=1.0))[first] == OPEN
            assert {each.address for each in (await host.receipts(f"guest-{turn}")).receipts} == {first}
        await host.stop(f"guest-{turn}")
    assert len(addresses) <= 9
