"""What may go where, as texts for `nft -f`: of the host, and of each slot's namespace.

Both are needed. The namespace knows whose packets they are and what its owner allows; the host does not trust
the namespace, in case a guest has broken out into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

from msgspec import Struct

from pandastack.host.network.addresses import GATEWAY, GUEST, GUEST_MAC, RESOLVER

TABLE = "pandastack"
PREFIX = "panda"
"""The names of the host's ends of all ways begin so."""
TAP, UPLINK = "tap0", "up0"
"""The two devices of a slot's namespace."""
PROXY_PORT = 3128
"""Where connections arrive that names decide about, inside a slot's namespace."""

MAIL_PORTS = (25, 465, 587)
"""What spam leaves by; must be named to be used."""
BURST, LEAST_BURST = 0.25, 16384
"""Of a cap on bytes so many seconds' may come at once, but never fewer bytes; the kernel adds those of a
second.
"""
MOST_SEEN = 8192
"""Destinations that a slot counts apart."""


class Policy(Struct, frozen=True):
    """What the kernel decides about a guest's packets. Sizes are bytes a second."""

    internet: bool = True
    allow: tuple[str, ...] | None = None
    """Nothing else, in CIDR notation; None is everything."""
    deny: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    """`443` or `8000-8100`; none is all but those of mail."""
    by_name: bool = False
    """Names decide about TCP: it goes to the proxy, which knows them."""
    most_connections: int = 2500
    most_rate: int | None = None


OPEN = Policy()


def host_rules(pool: IPv4Network, denied: Iterable[IPv4Network], *, routes: bool) -> str:
    """The host's table, in place of what there was. One that does not route for others goes on not to."""
    ours = f'"{PREFIX}*"'
    others = "accept" if routes else "drop"
    return f"""
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  set denied {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {_joined(denied)} }}; }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname {ours} meta nfproto != ipv4 counter drop
    iifname {ours} ip saddr != {pool} counter drop
    iifname {ours} fib saddr . iif oif missing counter drop
    iifname != {ours} iifname != "lo" ip saddr {pool} counter drop
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname {ours} counter drop
  }}
  chain output {{
    type filter hook output priority filter - 5; policy accept;
    oifname {ours} ct state new counter drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname {ours} oifname {ours} counter drop
    iifname {ours} ip daddr @denied counter drop
    iifname {ours} accept
    oifname {ours} ct state established,related accept
    oifname {ours} counter drop
    {others}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pool} oifname != {ours} masquerade
  }}
}}
"""


NO_RULES = """
add table netdev guard
delete table netdev guard
add table inet sandbox
delete table inet sandbox
"""
"""Takes away what a slot has, before it gets rules anew. A new slot does without: the kernel waits until
nobody can see a table that it has removed, which takes longer than all the rules.
"""


def slot_rules(denied: Iterable[IPv4Network], policy: Policy = OPEN) -> str:
    """All of a slot's namespace, which has none so far.

    Only whole and honest packets come in from the guest: its own MAC, its own address, IPv4. Addresses that
    nobody may reach are refused before anything else is asked, also before a connection is led elsewhere.
    """
    return f"""
table netdev guard {{
  chain ingress {{
    type filter hook ingress device "{TAP}" priority -500; policy drop;
    ether saddr != {GUEST_MAC} counter drop
    ether type ip ip saddr {GUEST.ip} accept
    ether type arp jump questions
    counter drop
  }}
  chain questions {{
    arp operation != request counter drop
    arp saddr ether {GUEST_MAC} arp saddr ip {GUEST.ip} limit rate 100/second accept
  }}
}}
table inet sandbox {{
  {_seen("sent")}
  {_seen("got")}
  {_seen("refused")}
  set denied {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {_joined(denied)} }}; }}
{_HOOKS}
{_VERDICTS}
}}
{_decisions(policy)}
"""


_HOOKS = f"""
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{TAP}" ip daddr @denied ip daddr != {{ {GATEWAY.ip}, {RESOLVER.ip} }} jump refuse
  }}
  chain lead {{
    type nat hook prerouting priority dstnat; policy accept;
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "{TAP}" jump pace
    ct state established,related accept
    iifname "lo" accept
    iifname "{TAP}" ip daddr {RESOLVER.ip} meta l4proto {{ tcp, udp }} th dport 53 accept
    iifname "{TAP}" tcp dport {PROXY_PORT} ct status dnat jump most
    iifname "{TAP}" tcp dport {PROXY_PORT} ct status dnat accept
    iifname "{TAP}" icmp type echo-request limit rate 10/second accept
    iifname "{TAP}" reject with icmpx type admin-prohibited
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "{TAP}" jump pace
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    jump pace
    iifname "{TAP}" oifname "{UPLINK}" ct state established,related jump sent
    iifname "{TAP}" ct state invalid meta l4proto tcp reject with tcp reset
    iifname "{TAP}" oifname "{UPLINK}" ct state new jump decide
    iifname "{UPLINK}" oifname "{TAP}" ct state established,related jump got
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{UPLINK}" masquerade
  }}"""
"""Where packets of a slot come by. What a connection that is not allowed any more sends is answered at once,
and so is what a restored guest sends on connections of an earlier life. All that the guest sends and gets
passes `pace`, whether it goes on from here, to the proxy or to the resolver: one count for all of it.
"""

_VERDICTS = f"""
  chain sent {{
    meta l4proto {{ tcp, udp }} update @sent {{ ip daddr . meta l4proto . th dport }}
    accept
  }}
  chain got {{
    meta l4proto {{ tcp, udp }} update @got {{ ip saddr . meta l4proto . th sport }}
    accept
  }}
  chain refuse {{
    tcp dport {PROXY_PORT} ct status dnat reject with tcp reset
    meta l4proto {{ tcp, udp }} update @refused {{ ip daddr . meta l4proto . th dport }}
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain most {{ }}
  chain pace {{ }}
  chain decide {{ }}"""
"""Where they go from there; the last three are a policy's. `most` counts new connections of both ways, so
that they have one cap. What is refused on its way to the proxy is not counted: its address is ours by then.
"""


def policy_rules(policy: Policy) -> str:
    """Another policy for a slot that has its rules; what was counted stays."""
    chains = ("most", "pace", "decide", "lead")
    return "".join(f"flush chain inet sandbox {chain}\n" for chain in chains) + _decisions(policy)


def _decisions(policy: Policy) -> str:
    added = [
        ("most", f"ct count over {policy.most_connections} jump refuse"),
        *(("pace", rule) for rule in _rate(policy)),
        *(("decide", rule) for rule in _decide(policy)),
        *(("lead", rule) for rule in _redirect(policy)),
    ]
    return "".join(f"add rule inet sandbox {chain} {rule}\n" for chain, rule in added)


def _redirect(policy: Policy) -> Sequence[str]:
    if not policy.internet or not policy.by_name:
        return ()
    named = f'iifname "{TAP}" ip daddr != {{ {GATEWAY.ip}, {RESOLVER.ip} }} meta l4proto tcp'
    return (f"{named} redirect to :{PROXY_PORT}",)


def _rate(policy: Policy) -> Sequence[str]:
    if policy.most_rate is None:
        return ()
    burst = max(int(policy.most_rate * BURST), LEAST_BURST)
    return (f"limit rate over {policy.most_rate} bytes/second burst {burst} bytes drop",)


def _decide(policy: Policy) -> Sequence[str]:
    """New connections, in this order: deny wins over allow."""
    if not policy.internet:
        return ("jump refuse",)
    rules = ["jump most"]
    rules += ["meta l4proto != { tcp, udp, icmp } jump refuse", "icmp type != echo-request jump refuse"]
    if policy.deny:
        rules.append(f"ip daddr {{ {', '.join(policy.deny)} }} jump refuse")
    if policy.by_name:
        rules.append("udp dport { 443, 853 } jump refuse")
    if policy.ports:
        rules.append(f"meta l4proto {{ tcp, udp }} th dport != {{ {', '.join(policy.ports)} }} jump refuse")
    else:
        rules.append(f"tcp dport {{ {', '.join(map(str, MAIL_PORTS))} }} jump refuse")
    if policy.allow is not None:
        allowed = f"ip daddr != {{ {', '.join(policy.allow)} }} " if policy.allow else ""
        rules.append(f"{allowed}jump refuse")
    return (*rules, "jump sent")


def _seen(name: str) -> str:
    """Destinations with what went there; full, it counts no more and stops nothing."""
    kind = "type ipv4_addr . inet_proto . inet_service"
    return f"set {name} {{ {kind}; flags dynamic; size {MOST_SEEN}; counter; }}"


def _joined(networks: Iterable[IPv4Network]) -> str:
    return ", ".join(map(str, networks))
