"""Where packages come from: the mirrors that this machine's owner has configured, for the releases that we
need.

No mirror's name is written in this program. On Debian the owner's mirror serves every Debian release; on
another distribution mmdebstrap knows where Debian is.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.errors import BuildFailed
from pandastack.host.tool import run_tool

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Installed by the package debian-archive-keyring, on the host and in every Debian guest."""


class Source(Struct, frozen=True):
    """One entry of apt's sources: a mirror, some suites of it, and how it is signed."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    """A path of a keyring, or a key itself as apt writes it."""
    trusted: bool = False
    """Taken without a signature: for packages that are on this disk and were checked before."""

    def stanza(self) -> str:
        """The entry in apt's deb822 format."""
        lines = [
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(self.suites)}",
        ]
        if self.components:
            lines.append(f"Components: {' '.join(self.components)}")
        if self.signed_by:
            gap = "\n" if "\n" in self.signed_by else " "
            lines.append(f"Signed-By:{gap}{self.signed_by}")
        if self.trusted:
            lines.append("Trusted: yes")
        return "\n".join(lines) + "\n"


def local_source(folder: Path) -> Source:
    """The packages of a folder on this disk that has an index of them."""
    return Source((f"copy://{folder}",), ("./",), (), trusted=True)


class Release(Struct, frozen=True):
    """A release of a distribution: `debian` `bookworm`, `ubuntu` `noble`."""

    distribution: str
    codename: str


def read_release(os_release: Path = Path("/etc/os-release")) -> Release:
    """The release of this machine."""
    pairs = (line.partition("=") for line in os_release.read_text().splitlines() if "=" in line)
    fields = {name: " ".join(shlex.split(value)) for name, _, value in pairs}
    return Release(fields.get("ID", ""), fields.get("VERSION_CODENAME", ""))


def read_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Every enabled binary source of this machine, from both of apt's formats."""
    parts = etc_apt / "sources.list.d"
    lists = [etc_apt / "sources.list", *sorted(parts.glob("*.list"))]
    found = [source for path in lists if path.exists() for source in parse_lines(path.read_text())]
    for path in sorted(parts.glob("*.sources")):
        found += parse_stanzas(path.read_text())
    return found


def parse_lines(text: str) -> Iterator[Source]:
    """Read the one-line format: `deb [signed-by=…] uri suite component…`."""
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        if kind != "deb":
            continue
        options, rest = _split_options(rest.strip())
        uri, suite, *components = rest.split()
        yield Source((uri,), (suite,), tuple(components), options.get("signed-by", ""))


def _split_options(rest: str) -> tuple[dict[str, str], str]:
    if not rest.startswith("["):
        return {}, rest
    inside, _, after = rest[1:].partition("]")
    pairs = (option.partition("=") for option in inside.split())
    return {name.lower(): value.strip('"') for name, _, value in pairs}, after


def parse_stanzas(text: str) -> Iterator[Source]:
    """Read the deb822 format: paragraphs of `Field: value`, where a value goes on in indented lines."""
    for paragraph in _paragraphs(text):
        if "deb" not in paragraph.get("types", "").split() or paragraph.get("enabled", "yes") in (
            "no",
            "false",
        ):
            continue
        yield Source(
            tuple(paragraph.get("uris", "").split()),
            tuple(paragraph.get("suites", "").split()),
            tuple(paragraph.get("components", "").split()),
            paragraph.get("signed-by", ""),
        )


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0].isspace():
            fields[name] = f"{fields.get(name, '')}\n{line}".lstrip("\n")
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()


def of_release(sources: Iterable[Source], codename: str) -> list[Source]:
    """What of `sources` serves the release `codename` itself, its updates and its security fixes; no third
    party's.
    """
    wanted = {codename, f"{codename}-updates", f"{codename}-security"}
    return [
        Source(source.uris, suites, source.components, source.signed_by)
        for source in sources
        if "main" in source.components and (suites := tuple(s for s in source.suites if s in wanted))
    ]


def with_backports(sources: Iterable[Source], codename: str) -> list[Source]:
    """`sources` and the backports of the same mirror."""
    known = list(sources)
    extra = [
        Source(source.uris, (f"{codename}-backports",), ("main",), source.signed_by)
        for source in known
        if codename in source.suites
    ]
    return known + extra


async def debian_sources(suite: str, *, mirror: str | None) -> list[Source]:
    """Sources of the Debian release `suite` for a template.

    From `mirror` when given, else from the mirror that this machine uses for its own Debian, else from where
    mmdebstrap finds Debian. Raises BuildFailed when none is known.
    """
    if mirror:
        return _debian_at({"": mirror, "-security": f"{mirror.rstrip('/')}-security"}, suite)
    release = read_release()
    if release.distribution == "debian":
        own = of_release(read_sources(), release.codename)
        main = _first_uri(own, release.codename)
        security = _first_uri(own, f"{release.codename}-security")
        if main:
            return _debian_at({"": main, "-security": security}, suite)
    known = parse_lines(await _known_to_mmdebstrap(suite))
    # Which key it is mmdebstrap says only sometimes: not where apt has it anyway, and not without gpg.
    return [msgspec.structs.replace(source, signed_by=str(DEBIAN_KEYRING)) for source in known]


def _first_uri(sources: Iterable[Source], suite: str) -> str:
    return next((source.uris[0] for source in sources if suite in source.suites), "")


def _debian_at(mirrors: Mapping[str, str], suite: str) -> list[Source]:
    archive = Source((mirrors[""],), (suite, f"{suite}-updates"), ("main",), str(DEBIAN_KEYRING))
    if not mirrors["-security"]:
        return [archive]
    return [archive, Source((mirrors["-security"],), (f"{suite}-security",), ("main",), str(DEBIAN_KEYRING))]


async def _known_to_mmdebstrap(suite: str) -> str:
    """The sources that mmdebstrap would use; it is stopped by a failing hook before it downloads anything."""
    hook = 'sed "s/^/source: /" "$1/etc/apt/sources.list" >&2; exit 1'
    lines: list[str] = []
    try:
        await run_tool(
            ["mmdebstrap", "--variant=custom", "--format=null", f"--setup-hook={hook}", suite, "-"],
            timeout=60,
            on_line=lines.append,
        )
    except BuildFailed as error:
        found = [line.removeprefix("source: ") for line in lines if line.startswith("source: ")]
        if found:
            return "\n".join(found)
        raise BuildFailed(
            f"No mirror of Debian {suite} is known here. "
            "Install mmdebstrap and debian-archive-keyring, or name a mirror."
        ) from error
    raise BuildFailed(f"mmdebstrap named no mirror of Debian {suite}. Name one yourself.")
