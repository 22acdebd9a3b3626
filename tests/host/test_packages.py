"""A private apt over packages made here: resolving, downloading, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.errors import BuildFailed
from pandastack.host.packages import Archive
from pandastack.host.paths import Cache
from pandastack.host.rootfs import lay_repository
from pandastack.host.sources import Source, local_source
from pandastack.host.tool import run_tool

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


def silent(what: str, fraction: float | None) -> None:
    """Progress that nobody watches."""


async def archive_of(tmp_path: Path, packages: dict[str, str]) -> Archive:
    """A private apt over a folder of packages made here: name -> dependencies."""
    folder = tmp_path / "repository"
    folder.mkdir()
    index = []
    for name, depends in packages.items():
        control = (
            f"Package: {name}\nVersion: 1:2.0+x-1\nArchitecture: amd64\nMaintainer: Nobody <no@localhost>\n"
            f"{f'Depends: {depends}' if depends else 'Section: misc'}\nDescription: {name}\n"
        )
        (tmp_path / name / "DEBIAN").mkdir(parents=True)
        (tmp_path / name / "DEBIAN" / "control").write_text(control)
        deb = folder / f"{name}.deb"
        await run_tool(["dpkg-deb", "--root-owner-group", "--build", tmp_path / name, deb], timeout=60)
        digest = (await run_tool(["sha256sum", deb], timeout=60)).split()[0]
        index.append(f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(index))
    cache = Cache(tmp_path / "cache")
    archive = Archive(cache.packages("test"), cache.downloads, [local_source(folder)])
    await archive.update()
    return archive


async def test_dependencies_are_resolved_and_downloaded_once(tmp_path: Path) -> None:
    archive = await archive_of(tmp_path, {"app": "library", "library": "", "other": ""})
    packages = await archive.resolve(["app"])
    assert [(package.name, package.version) for package in packages] == [
        ("app", "1:2.0+x-1"),
        ("library", "1:2.0+x-1"),
    ]
    told: list[str] = []
    await archive.download(packages, lambda what, fraction: told.append(what))
    assert [archive.path(package).stat().st_size for package in packages] == [p.size for p in packages]
    assert told
    told.clear()
    await archive.download(packages, lambda what, fraction: told.append(what))
    assert not told, "nothing is fetched twice"
    assert "Package: library" in await archive.descriptions(packages)


async def test_a_repository_holds_exactly_the_resolved_packages(tmp_path: Path) -> None:
    archive = await archive_of(tmp_path, {"app": "library", "library": "", "other": ""})
    packages = await archive.resolve(["app"])
    await archive.download(packages, silent)
    folder = tmp_path / "exact"
    lay_repository(folder, archive, packages, await archive.descriptions(packages), "bookworm")
    cache = Cache(tmp_path / "guest")
    inside = Archive(cache.packages("inside"), cache.downloads, [local_source(folder)])
    await inside.update()
    assert [package.sha256 for package in await inside.resolve(["app"])] == [p.sha256 for p in packages]
    assert await inside.versions("other") == []
    with pytest.raises(BuildFailed, match="no entry for app"):
        lay_repository(tmp_path / "torn", archive, packages, "", "bookworm")


async def test_one_package_whatever_it_depends_on(tmp_path: Path) -> None:
    archive = await archive_of(tmp_path, {"kernel": "nothing-that-exists", "meta": "kernel"})
    assert await archive.dependency("meta", r"ker\w+") == "kernel"
    assert (await archive.locate("kernel")).name == "kernel"
    assert await archive.versions("kernel") == ["1:2.0+x-1"]
    assert await archive.versions("nothing-that-exists") == []


async def test_a_package_that_is_not_what_the_index_says_is_refused(tmp_path: Path) -> None:
    archive = await archive_of(tmp_path, {"app": ""})
    packages = await archive.resolve(["app"])
    deb = tmp_path / "repository" / "app.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(BuildFailed, match="could not be downloaded"):
        await archive.download(packages, silent)
    assert not archive.path(packages[0]).exists()


async def test_what_cannot_be_resolved_says_why(tmp_path: Path) -> None:
    archive = await archive_of(tmp_path, {"app": "nothing-that-exists"})
    with pytest.raises(BuildFailed, match="nothing-that-exists"):
        await archive.resolve(["app"])


@pytest.mark.parametrize("uri", ["copy:///nonexistent", "http://127.0.0.1:1/debian"])
async def test_sources_that_cannot_be_reached(tmp_path: Path, uri: str) -> None:
    cache = Cache(tmp_path / "cache")
    sources = [Source((uri,), ("./",), (), trusted=True)]
    archive = Archive(cache.packages("test"), cache.downloads, sources)
    with pytest.raises(BuildFailed, match="package lists could not be fetched"):
        await archive.update()
