"""Where packages come from: apt's two formats, and which entries are taken."""

from __future__ import annotations

from pathlib import Path

from pandastack.host.sources import (
    Source,
    local_source,
    of_release,
    parse_lines,
    parse_stanzas,
    read_release,
    read_sources,
    with_backports,
)

ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # the mirror
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/security bookworm-security main
deb-src http://mirror.example/debian bookworm main
"""

STANZAS = """
Types: deb deb-src
URIs: http://a.example/debian http://b.example/debian
Suites: bookworm bookworm-updates
# a remark inside
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://key.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_the_one_line_format() -> None:
    first, second = parse_lines(ONE_LINE)
    assert first == Source(("http://mirror.example/debian",), ("bookworm",), ("main", "contrib"))
    assert second.signed_by == "/usr/share/keyrings/x.gpg"
    assert second.suites == ("bookworm-security",)
    (quoted,) = parse_lines(
        'deb [signed-by="/usr/share/keyrings/x.gpg"] http://mirror.example/ bookworm main'
    )
    assert quoted.signed_by == "/usr/share/keyrings/x.gpg"


def test_the_paragraph_format() -> None:
    first, with_key = parse_stanzas(STANZAS)
    assert first.uris == ("http://a.example/debian", "http://b.example/debian")
    assert first.suites == ("bookworm", "bookworm-updates")
    assert first.components == ("main",)
    assert with_key.signed_by.splitlines()[0] == " -----BEGIN PGP PUBLIC KEY BLOCK-----"


def test_what_is_written_reads_back() -> None:
    for source in parse_stanzas(STANZAS):
        (again,) = parse_stanzas(source.stanza())
        assert again.uris == source.uris
        assert again.suites == source.suites
        assert again.signed_by.split() == source.signed_by.split()


def test_both_formats_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.example/ bookworm main\n")
    (tmp_path / "sources.list.d" / "two.list").write_text("deb http://two.example/ bookworm main\n")
    (tmp_path / "sources.list.d" / "three.sources").write_text(STANZAS)
    (tmp_path / "sources.list.d" / "off.list.disabled").write_text("deb http://off.example/ bookworm main\n")
    uris = [source.uris[0] for source in read_sources(tmp_path)]
    assert uris[:2] == ["http://one.example/", "http://two.example/"]
    assert len(uris) == 4


def test_third_parties_are_left_out() -> None:
    own = Source(("http://mirror.example/debian",), ("bookworm", "bookworm-updates"), ("main",))
    others = [
        Source(("http://docker.example/",), ("bookworm",), ("stable",)),
        Source(("http://pgdg.example/",), ("bookworm-pgdg",), ("main",)),
        Source(("http://mirror.example/debian",), ("trixie",), ("main",)),
    ]
    assert of_release([own, *others], "bookworm") == [own]


def test_backports_are_of_the_same_mirror() -> None:
    own = Source(("http://mirror.example/debian",), ("bookworm",), ("main", "contrib"), "key")
    security = Source(("http://mirror.example/security",), ("bookworm-security",), ("main",))
    *same, extra = with_backports([own, security], "bookworm")
    assert same == [own, security]
    assert extra == Source(("http://mirror.example/debian",), ("bookworm-backports",), ("main",), "key")


def test_a_folder_of_packages_needs_no_signature(tmp_path: Path) -> None:
    stanza = local_source(tmp_path).stanza()
    assert f"URIs: copy://{tmp_path}\nSuites: ./\nTrusted: yes\n" in stanza
    assert "Components" not in stanza


def test_the_release_of_a_machine(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n')
    release = read_release(file)
    assert (release.distribution, release.codename) == ("debian", "bookworm")
