"""Names of preview hosts: only exact ones stand for a sandbox."""

from __future__ import annotations

import pytest

from pandastack.gateway.hosts import Named, named, plain_host
from tests.gateway.conftest import Gateway
from tests.gateway.upstream import Upstream

ID = "0b3f5c7e-1d2a-4e6f-8a9b-0c1d2e3f4a5b"
SUFFIX = "preview.example.com"

EXACT = [
    f"8000-{ID}.{SUFFIX}",
    f"8000-{ID}.{SUFFIX}:8081",
    f"8000-{ID}.{SUFFIX}:1",
    f"8000-{ID}.{SUFFIX}".upper(),
    f"8000-{ID.upper()}.{SUFFIX}",
    f"8000-{ID}.Preview.Example.COM:443",
]

OTHER = [
    # the port
    *(f"{port}-{ID}.{SUFFIX}" for port in (0, 22, 65_536, 99_999, 100_000, -1, "+8000", "008000")),
    *(
        f"{port}-{ID}.{SUFFIX}"
        for port in ("8000.0", "8e3", "0x1f40", "", "port", "8000 ", "8,000", "８０００", "٨")
    ),
    # the id
    *(
        f"8000-{word}.{SUFFIX}"
        for word in ("", "x", ID[:-1], ID + "0", ID.replace("-", ""), ID.replace("-", "_"))
    ),
    *(
        f"8000-{word}.{SUFFIX}"
        for word in (f"{{{ID}}}", f"{ID}-x", f"x-{ID}", ID[::-1], "g" + ID[1:], f"urn:{ID}")
    ),
    *(
        f"8000-{word}.{SUFFIX}"
        for word in ("..", "%2e%2e", "../../etc", ID.replace("0", "%30"), ID.replace("0", "o"))
    ),
    # the dash
    *(
        f"8000{mark}{ID}.{SUFFIX}"
        for mark in ("", "--", "_", ".", "/", ":", "@", "–", "−", "%2d", "\u00ad", " ")
    ),
    # the suffix
    *(
        f"8000-{ID}{mark}{SUFFIX}"
        for mark in ("", "..", "-", "/", "%2e", "。", "．", ":", ".x.", "\\", "#", "?")
    ),
    *(
        f"8000-{ID}.{suffix}"
        for suffix in ("", "com", "example.com", "preview.example.co", "preview.example.comm")
    ),
    *(
        f"8000-{ID}.{suffix}"
        for suffix in (f"{SUFFIX}.evil.tld", f"evil.tld.{SUFFIX}", f"evil{SUFFIX}", "localhost")
    ),
    *(
        f"8000-{ID}.{suffix}"
        for suffix in ("preview.example.com.", "preview.example.com.:80", "preview..example.com")
    ),
    *(
        f"8000-{ID}.{suffix}"
        for suffix in ("previeẃ.example.com", "xn--previe-6ib.example.com", "PREVİEW.example.com")
    ),
    *(
        f"8000-{ID}.{suffix}"
        for suffix in ("preview.example.com\u200b", "preview\u3002example.com", "ｐreview.example.com")
    ),
    # what stands around it
    *(
        f"{before}8000-{ID}.{SUFFIX}"
        for before in ("x.", "8000-", "www.", ".", "-", "user@", "user:pw@", "http://", "//")
    ),
    *(f"{before}8000-{ID}.{SUFFIX}" for before in (" ", "\t", "0", "[", "%00", "\x00", f"8001-{ID}.")),
    *(
        f"8000-{ID}.{SUFFIX}{behind}"
        for behind in (":", ":0x50", ":80:80", ":123456", ":-1", ":80x", ":８０", "@evil.tld")
    ),
    *(
        f"8000-{ID}.{SUFFIX}{behind}"
        for behind in (" ", ",evil.tld", ";x", "/path", "?q", "#f", "]", "\x00", "%00", "\\")
    ),
    # other names of ours, and none
    *(
        ".",
        SUFFIX,
        f"{ID}.{SUFFIX}",
        f"8000.{SUFFIX}",
        f"fn-{ID}.{SUFFIX}",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "*",
    ),
]


def test_the_tables_are_as_large_as_they_should_be() -> None:
    assert len(set(OTHER)) == len(OTHER) >= 100
    assert not set(OTHER) & set(EXACT)


@pytest.mark.parametrize("host", EXACT)
def test_an_exact_name_stands_for_its_port(host: str) -> None:
    assert named(plain_host(host.encode()), SUFFIX) == Named(8000, ID)


@pytest.mark.parametrize("host", OTHER)
def test_no_other_name_stands_for_anything(host: str) -> None:
    assert named(plain_host(host.encode()), SUFFIX) is None


@pytest.mark.anyio
async def test_the_same_at_the_gateway(gateway: Gateway, upstream: Upstream) -> None:
    """All names of the table, with the sandbox that is there, as headers of real requests."""

    def real(host: str) -> str:
        return host.replace(ID, gateway.box).replace("8000", str(gateway.port)).replace(SUFFIX, "localhost")

    answers = {}
    for host in OTHER:
        if host.strip() != host or set(host) & set("\x00\t"):
            continue  # no part of the value, or refused before it is looked at
        if real(host).lower() in (gateway.host, f"{gateway.host}:80", "localhost"):
            continue  # with the short suffix of the test some are names of it
        answers[host] = (await gateway.get(host=real(host)))[0]
    assert len(answers) >= 90
    assert set(answers.values()) <= {400, 404, 421}
    assert upstream.got == []
    for host in (gateway.host, gateway.host.upper(), f"{gateway.host}:8081"):
        assert await gateway.get(host=host) == (200, b"fine")
    assert len(upstream.got) == 3


@pytest.mark.anyio
async def test_a_sandbox_that_is_not_there(gateway: Gateway, upstream: Upstream) -> None:
    status, body = await gateway.get(host=f"{gateway.port}-{ID}.localhost")
    assert (status, upstream.got) == (404, [])
    assert b"There is no sandbox" in body
