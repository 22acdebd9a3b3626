"""Packages of a distribution, without its machine: a private apt that knows its own sources and changes
nothing else.

It keeps the owner's network settings (proxy, credentials, certificates, trusted keys) by reading the system's
configuration, and overrides every path that it writes to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from msgspec import Struct

from pandastack.errors import BuildFailed
from pandastack.host.publish import full_disk_said, locked
from pandastack.host.sources import Source
from pandastack.host.tool import run_tool
from pandastack.host.uses import mark_used

Progress = Callable[[str, float | None], None]
"""Told what is being done and which fraction of it is finished (None while that cannot be known)."""

ARCHITECTURE = "amd64"
FETCHER = Path("/usr/lib/apt/apt-helper")
BATCH = 24
"""Packages of one download call: few enough to show progress, many enough to use one connection."""

UPDATE_SECONDS = 300
QUERY_SECONDS = 60
DOWNLOAD_SECONDS = 1800

_FETCH_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$")


class Package(Struct, frozen=True, order=True):
    """One file of an archive, named by its content."""

    file: str
    """`name_version_architecture.deb`, the version percent-encoded as apt does."""
    sha256: str
    size: int
    uri: str

    @property
    def name(self) -> str:
        return self.file.partition("_")[0]

    @property
    def version(self) -> str:
        return unquote(self.file.split("_")[1])


class Archive:
    """A private apt over `sources`, its state below `home`; downloads are shared in `downloads`.

    `installed` is the package database against which dependencies are resolved: the system's own to find what
    is missing here, None for a machine that has nothing yet.
    """

    def __init__(
        self, home: Path, downloads: Path, sources: Sequence[Source], *, installed: Path | None = None
    ) -> None:
        self.home = home
        self.downloads = downloads
        self.sources = sources
        self.installed = installed or home / "status"

    async def update(self) -> None:
        """Fetch the lists of what the sources offer. Raises BuildFailed when a source cannot be reached."""
        with full_disk_said():
            self._lay_out()
        try:
            async with locked(_lock_of(self.home)):  # apt refuses where it could wait
                await run_tool(self._apt("apt-get", "update"), timeout=UPDATE_SECONDS)
        except BuildFailed as error:
            raise BuildFailed(
                "The package lists could not be fetched; "
                f"look at the network and /etc/apt, then try again.\n{error}"
            ) from error

    def _lay_out(self) -> None:
        for folder in ("lists/partial", "sources.d", "preferences.d", "archives/partial", "trusted.d"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        self.downloads.mkdir(parents=True, exist_ok=True)
        mark_used(self.home)
        mark_used(self.downloads)
        (self.home / "status").touch()
        stanzas = "\n".join(source.stanza() for source in self.sources)
        (self.home / "sources.d" / "archive.sources").write_text(stanzas)

    def _apt(self, program: str, *arguments: str) -> list[str]:
        options = {
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures": ARCHITECTURE,
            "APT::Default-Release": "",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",  # or a network that is down would be a warning
            "Acquire::ForceHash": "SHA256",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Cache": str(self.home),
            "Dir::Cache::archives": str(self.home / "archives"),
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": str(self.home / "preferences.d"),
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": str(self.home / "sources.d"),
            "Dir::State": str(self.home),
            "Dir::State::Lists": str(self.home / "lists"),
            "Dir::State::status": str(self.installed),
        }
        flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
        return [program, "--quiet", *flags, *arguments]

    async def versions(self, package: str) -> list[str]:
        """The versions of `package` that the sources offer, best first; empty when there is none."""
        said = await run_tool(self._apt("apt-cache", "madison", package), timeout=QUERY_SECONDS)
        return [line.split("|")[1].strip() for line in said.splitlines() if line.count("|") >= 2]

    async def dependency(self, package: str, pattern: str) -> str:
        """The first direct dependency of the newest `package` whose name matches `pattern` (a metapackage's
        target).
        """
        said = await run_tool(
            self._apt("apt-cache", "depends", "--important", package), timeout=QUERY_SECONDS
        )
        match = re.search(rf"^\s*\|?Depends: ({pattern})$", said, re.MULTILINE)
        if match is None:
            raise BuildFailed(f"The package sources offer no {package} that depends on {pattern}.")
        return match.group(1)

    async def resolve(self, wanted: Iterable[str], *, release: str | None = None) -> list[Package]:
        """Every package that is not installed and that `wanted` need, without recommendations, sorted by
        file.

        `wanted` are package names, `name=version` or apt patterns; `release` prefers one suite, such as
        backports.
        """
        target = ("-t", release) if release else ()
        command = self._apt("apt-get", *target, "--yes", "--print-uris", "install", *wanted)
        return self._fetch_lines(await run_tool(command, timeout=QUERY_SECONDS))

    async def locate(self, package: str) -> Package:
        """The file of one package by name or `name=version`, whatever it depends on."""
        found = self._fetch_lines(
            await run_tool(self._apt("apt-get", "download", "--print-uris", package), timeout=QUERY_SECONDS)
        )
        if not found:
            raise BuildFailed(f"The package sources do not offer {package}.")
        return found[0]

    @staticmethod
    def _fetch_lines(said: str) -> list[Package]:
        matches = (_FETCH_LINE.match(line) for line in said.splitlines())
        return sorted(
            Package(file=m["file"], sha256=m["sha256"], size=int(m["size"]), uri=m["uri"])
            for m in matches
            if m
        )

    async def descriptions(self, packages: Sequence[Package]) -> str:
        """The index entries of `packages` as the archive gives them, one paragraph each."""
        names = [f"{package.name}={package.version}" for package in packages]
        return await run_tool(self._apt("apt-cache", "show", *names), timeout=QUERY_SECONDS)

    def path(self, package: Package) -> Path:
        """Where the downloaded file of `package` is, or will be."""
        return self.downloads / package.file

    async def download(self, packages: Sequence[Package], progress: Progress) -> None:
        """Have every file of `packages`, each checked against its hash; what is there already is not fetched
        again.

        Raises BuildFailed when a file cannot be had; those that arrived before stay for the next attempt.
        """
        if all(self._has(package) for package in packages):
            return
        async with locked(_lock_of(self.downloads)):  # others may be fetching the same
            missing = [package for package in packages if not self._has(package)]
            total = sum(package.size for package in missing)
            done = 0
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                progress(f"downloading {total >> 20} MiB of packages", done / total)
                await self._fetch(batch)
                done += sum(package.size for package in batch)

    def _has(self, package: Package) -> bool:
        path = self.path(package)
        return path.exists() and path.stat().st_size == package.size

    async def _fetch(self, batch: Sequence[Package]) -> None:
        triples = [
            word
            for package in batch
            for word in (package.uri, f"{self.path(package)}.part", f"SHA256:{package.sha256}")
        ]
        try:
            await run_tool(self._apt(str(FETCHER), "download-file", *triples), timeout=DOWNLOAD_SECONDS)
        except BuildFailed as error:
            raise BuildFailed(
                "A package could not be downloaded; "
                f"look at the network and try again, what has arrived is kept.\n{error}"
            ) from error
        for package in batch:
            path = self.path(package)
            path.with_name(f"{path.name}.part").replace(path)


def _lock_of(folder: Path) -> Path:
    """Beside a folder, so that it is no file of it."""
    return folder.with_name(f"{folder.name}.lock")
