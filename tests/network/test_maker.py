"""The maker: what it has the kernel keep is what `nft` would, and its end is nobody's loss."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from pandastack.errors import BuildFailed, MachineError
from pandastack.host import procfs
from pandastack.host.network import namespace, netlink
from pandastack.host.network.addresses import FORBIDDEN
from pandastack.host.network.maker.client import STARTS, Maker
from pandastack.host.network.maker.library import NAME
from pandastack.host.network.maker.orders import Order
from pandastack.host.network.rules import NO_RULES, Policy, policy_rules, slot_rules
from pandastack.host.network.slot import SYSCTLS, Slot, remove
from pandastack.testing.fixtures import eventually
from tests.network.world import HOST, ip, lay

pytestmark = [pytest.mark.anyio, pytest.mark.root]

SPACE = f"pandatest-{os.getpid()}-rules"
POOL = IPv4Network("10.200.0.0/16")
NUMBER = 16_000
"""Of a slot that no server of this machine comes to."""
NO_LIBRARY = "libnothing.so.1"
POLICIES = (
    Policy(allow=("198.51.100.0/24",), ports=("443", "8000-8100"), most_rate=1_250_000),
    Policy(deny=("198.51.100.0/24",), by_name=True, most_connections=10),
    Policy(internet=False),
)


@asynccontextmanager
async def maker(tmp_path: Path, *, library: str = NAME, seconds: float = 10.0) -> AsyncIterator[Maker]:
    async with Maker(tmp_path / "maker.log", library=library, seconds=seconds) as made:
        yield made


@contextmanager
def space() -> Iterator[None]:
    """An empty namespace."""
    namespace.make(SPACE, {})
    try:
        yield
    finally:
        namespace.remove(SPACE)


def said(*command: str, of: str) -> str:
    within = ("nsenter", f"--net={namespace.path_of(of)}")
    return subprocess.run([*within, *command], capture_output=True, text=True, check=True, timeout=10).stdout


def rules(of: str) -> str:
    return said("nft", "-s", "list", "ruleset", of=of)


def network(of: str) -> list[str]:
    """Everything about devices, addresses, routes and neighbours that a slot can be told by."""
    devices = (("ip", "-br", "link", "show", "dev", device) for device in ("lo", "tap0"))
    others = (
        ("ip", "-br", "addr"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "neigh", "show", "nud", "permanent"),
    )
    found = (said(*command, of=of) for command in (*devices, *others))
    return [" ".join(re.sub(r"@if\d+", "", text).split()) for text in found]


def host_end(name: str) -> str:
    """Of the way to a slot, with its addresses and whether it is up."""
    return " ".join(
        re.sub(r"@if\d+", "", said("ip", "-4", "-br", "addr", "show", "dev", name, of=HOST)).split()
    )


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def test_the_library_and_the_program_make_the_same_slot(tmp_path: Path) -> None:
    """By every policy, and anew behind each, by the one that has the library and by the one that lacks it."""
    found: list[list[object]] = []
    with lay():
        for library in (NAME, NO_LIBRARY):
            async with maker(tmp_path, library=library) as made:
                slot = Slot(NUMBER, POOL, FORBIDDEN, made)
                await slot.make()
                assert bool(made.pid) is (library == NAME), "or both did the same"
                seen: list[object] = [network(slot.name), namespace.forwards(slot.name), rules(slot.name)]
                for policy in POLICIES:
                    await slot.obey(policy)
                    seen.append(rules(slot.name))
                    await slot.renew()
                    seen.append(rules(slot.name))
                found.append(seen)
                await slot.end()
    assert found[0] == found[1]
    _, forwards, fresh, *others = found[0]
    assert forwards and len(set(map(str, others))) == len(POLICIES) + 1, "each policy has rules of its own"
    assert fresh == others[1] == others[-1], "and one that was made anew has those of a fresh one"


async def test_the_ways_are_those_that_ip_would_lay(tmp_path: Path) -> None:
    with lay():
        async with maker(tmp_path) as made:
            slot = Slot(NUMBER, POOL, FORBIDDEN, made)
            await slot.make()
            laid = network(slot.name), host_end(slot.name)
            await slot.end()
        namespace.make(slot.name, SYSCTLS)
        with namespace.inside(slot.name):
            tap = namespace.lasting_tap("tap0")
        try:
            inner, outer = slot.addresses.inner, slot.addresses.host
            ip(
                f"link add up0 type veth peer name {slot.name} netns {HOST}",
                "link set lo up",
                f"addr add {inner} dev up0",
                "link set up0 up",
                f"route add default via {outer.ip}",
                "link set tap0 address 52:54:00:70:64:01 up",
                "addr add 10.0.2.2/24 dev tap0",
                "addr add 10.0.2.3/32 dev tap0",
                "neigh add 10.0.2.15 lladdr 52:54:00:70:64:73 dev tap0 nud permanent",
                of=slot.name,
            )
            ip(f"addr add {outer} dev {slot.name}", f"link set {slot.name} up", of=HOST)
            assert (network(slot.name), host_end(slot.name)) == laid
        finally:
            os.close(tap)
            await remove([NUMBER])


@pytest.mark.parametrize("library", [NAME, NO_LIBRARY])
async def test_rules_are_kept_all_or_none_and_the_words_are_of_nft(tmp_path: Path, library: str) -> None:
    good = "table inet sandbox { chain decide { }; }\n"
    for bad, words in (
        ("add rule inet sandbox decide nonsense", "syntax error"),
        ("add rule inet sandbox lost accept", "No such file or directory"),
    ):
        with space():
            async with maker(tmp_path, library=library) as made:
                with pytest.raises(BuildFailed, match=words) as refused:
                    await made.obey(Order(SPACE, good + bad))
                assert refused.value.message.startswith("nft failed with exit code 1:\n")
                assert bad.split()[-1] in refused.value.message, "the line is shown"
                assert rules(SPACE) == ""
                await made.obey(Order(SPACE, good))
                assert "chain decide" in rules(SPACE)


async def test_connections_are_forgotten_only_where_that_is_wanted(tmp_path: Path) -> None:
    tracked = "table inet sandbox { chain out { type filter hook output priority 0; ct state new accept; }; }"
    with space(), ExitStack() as held:
        async with maker(tmp_path) as made:
            await made.obey(Order(SPACE, tracked))
            with namespace.inside(SPACE):
                netlink.tell([netlink.up("lo")])
                asked = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            asked.sendto(b"?", ("127.0.0.1", 9))
            for forget, settled, left in ((False, False, 1), (True, False, 0), (True, True, 0)):
                asked.sendto(b"?", ("127.0.0.1", 9))
                await made.obey(Order(SPACE, NO_RULES + tracked, forget=forget, settled=settled))
                assert int(said("cat", "/proc/sys/net/netfilter/nf_conntrack_count", of=SPACE)) == left


async def test_a_namespace_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with maker(tmp_path) as made:
        with pytest.raises(MachineError, match="is not there"):
            await made.obey(Order("pandatest-lost", "table inet sandbox { }"))
        assert made.pid, "and the maker goes on"


async def test_one_that_was_killed_is_started_anew_some_times(tmp_path: Path) -> None:
    with space():
        async with maker(tmp_path) as made:
            seen = []
            for turn in range(STARTS + 1):
                await made.obey(Order(SPACE, f"table inet turn{turn} {{ }}"))
                seen.append(made.pid)
                if made.pid:
                    os.kill(made.pid, signal.SIGKILL)
                    await eventually(lambda: b"Z" in Path(f"/proc/{made.pid}/stat").read_bytes())
        assert 0 not in seen[:STARTS] and len(set(seen)) == STARTS + 1
        assert seen[STARTS] == 0, "from then on the program does it"
        assert [f"turn{turn}" in rules(SPACE) for turn in range(STARTS + 1)] == [True] * (STARTS + 1)


@pytest.mark.parametrize(("killed", "words"), [(False, "did not answer"), (True, "has ended")])
async def test_one_that_is_lost_in_the_middle_of_an_order_obeys_no_more(
    tmp_path: Path, killed: bool, words: str
) -> None:
    """Its order has failed, and is not obeyed later; the next one is."""
    with space():
        async with maker(tmp_path, seconds=3.0) as made:
            await made.obey(Order(SPACE, "table inet before { }"))
            lost = made.pid
            os.kill(lost, signal.SIGSTOP)
            order = asyncio.ensure_future(made.obey(Order(SPACE, "table inet lost { }")))
            await asyncio.sleep(0.1)
            if killed:
                os.kill(lost, signal.SIGKILL)
            with pytest.raises(BuildFailed, match=words):
                await order
            assert not Path(f"/proc/{lost}").exists(), "it would obey when it goes on"
            await made.obey(Order(SPACE, "table inet behind { }"))
            assert made.pid
        assert [name in rules(SPACE) for name in ("before", "lost", "behind")] == [True, False, True]


async def test_who_is_cancelled_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    with space():
        async with maker(tmp_path) as made:
            await made.obey(Order(SPACE, "table inet first { }"))
            turns = [
                asyncio.ensure_future(made.obey(Order(SPACE, f"table inet turn{turn} {{ }}")))
                for turn in range(8)
            ]
            await asyncio.sleep(0)
            for turn in turns[::2]:
                turn.cancel()
            await asyncio.gather(*turns, return_exceptions=True)
            with pytest.raises(BuildFailed, match="syntax error"):
                await made.obey(Order(SPACE, "nonsense"))
            await made.obey(Order(SPACE, "table inet last { }"))
        assert all(f"turn{turn} " in rules(SPACE) for turn in (1, 3, 5, 7)) and "last" in rules(SPACE)


async def test_a_host_may_have_many_descriptors(tmp_path: Path) -> None:
    """The library ends a process that has more than 1,023 of them. The negative control: one that has."""
    program = f"""
import os
from pandastack.host.network import namespace
from pandastack.host.network.maker.library import Library
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
with namespace.inside({SPACE!r}):
    Library().run("table inet control {{ }}")
"""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    try:
        with space(), ExitStack() as held:
            ended = subprocess.run(
                [sys.executable, "-c", program], stderr=subprocess.DEVNULL, timeout=30, check=False
            )
            assert ended.returncode == -signal.SIGABRT
            for _ in range(1100):
                held.callback(os.close, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            async with maker(tmp_path) as made:
                await made.obey(Order(SPACE, "table inet control { }"))
                assert made.pid and "control" in rules(SPACE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


BASE = """
table inet sandbox {
  chain refuse { }
  chain sent { }
  chain most { }
  chain pace { }
  chain decide { }
  chain lead { type nat hook prerouting priority dstnat; }
}
"""
"""What the rules of a policy go into."""


async def test_many_orders_leave_nothing_in_it(tmp_path: Path) -> None:
    async def obeyed(made: Maker, times: int) -> tuple[int, int]:
        for turn in range(times):
            await made.obey(Order(SPACE, policy_rules(POLICIES[turn % len(POLICIES)]), forget=turn % 2 == 0))
            if turn % 10 == 0:
                with pytest.raises(BuildFailed):
                    await made.obey(Order(SPACE, "table inet lost { chain nonsense"))
        await asyncio.sleep(0.5)
        return resident_kib(made.pid), len(list(Path(f"/proc/{made.pid}/fd").iterdir()))

    with space():
        async with maker(tmp_path) as made:
            await made.obey(Order(SPACE, BASE))
            kib, descriptors = await obeyed(made, 200)
            more_kib, more_descriptors = await obeyed(made, 400)
    assert more_descriptors == descriptors
    assert more_kib - kib < 512, f"{more_kib - kib} KiB more after 400 orders"


async def test_it_ends_with_its_host(tmp_path: Path) -> None:
    async with maker(tmp_path) as made:
        pid = made.pid
        assert pid in procfs.children(os.getpid())
    assert pid not in procfs.children(os.getpid())
    assert (tmp_path / "maker.log").read_text() == ""


def test_what_the_kernel_refuses_is_told_in_words() -> None:
    with namespace.nowhere():
        with pytest.raises(MachineError, match="there is no device up0"):
            netlink.up("up0")
        twice = netlink.address("lo", IPv4Interface("127.0.0.1/8"))
        with pytest.raises(MachineError, match=r"the address 127.0.0.1/8 of lo is refused: File exists"):
            netlink.tell([twice, twice, netlink.up("lo")])
        assert "lo" in {name for _, name in socket.if_nameindex()}


async def test_a_slot_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with lay():
        async with maker(tmp_path) as made:
            slot = Slot(NUMBER, POOL, FORBIDDEN, made)
            with namespace.own() as host:
                netlink.tell([netlink.pair(slot.name, "other0", host)])
            with pytest.raises(MachineError, match="File exists"):
                await slot.make()
            assert not namespace.path_of(slot.name).exists() and slot.tap == -1
            await remove([NUMBER])
            await slot.make()
            assert slot_rules(FORBIDDEN) and "table netdev guard" in rules(slot.name)
            await slot.end()


async def test_a_namespace_that_was_left_gives_its_name_to_a_new_one() -> None:
    namespace.make(SPACE, {})
    before = namespace.path_of(SPACE).stat().st_ino
    with namespace.inside(SPACE), space():
        assert namespace.path_of(SPACE).stat().st_ino != before
    assert not namespace.path_of(SPACE).exists()
