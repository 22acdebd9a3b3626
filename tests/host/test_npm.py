"""Packages of npm: what the lock says and nothing else, with the reason where they cannot be had."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from pandastack.errors import BuildFailed, InvalidRequest
from pandastack.host import npm
from pandastack.host.npm import NpmTree

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

PACKAGE = {"name": "a", "version": "1.0.0", "scripts": {"postinstall": "touch /tmp/pandastack-npm-ran"}}


def packed(path: Path) -> str:
    """A package in a file; its hash as locks have it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("package.json", json.dumps(PACKAGE)), ("index.js", "1")):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def tree_of(folder: Path, file: Path, integrity: str | None) -> NpmTree:
    """A folder that wants the package in a file."""
    folder.mkdir()
    wanted = {"a": f"file:{file}"}
    entry = {"version": "1.0.0", "resolved": f"file:{file}", "hasInstallScript": True}
    entry |= {} if integrity is None else {"integrity": integrity}
    lock = {"lockfileVersion": 3, "packages": {"": {"dependencies": wanted}, "node_modules/a": entry}}
    (folder / npm.WANTED).write_text(json.dumps({"dependencies": wanted}))
    (folder / npm.LOCK).write_text(json.dumps(lock))
    return NpmTree(folder, "/usr/local/lib")


async def test_what_the_lock_says_and_no_script(tmp_path: Path) -> None:
    said: list[str] = []
    good = tree_of(tmp_path / "good", tmp_path / "a.tgz", packed(tmp_path / "a.tgz"))
    assert npm.listed(good) == ["npm:a 1.0.0"]
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    if shutil.which("npm") is None:
        with pytest.raises(BuildFailed, match="apt-get install npm"):
            await npm.fetch([good], work, cache, lambda what, _: said.append(what))
        return
    (made,) = await npm.fetch([good], work, cache, lambda what, _: said.append(what))
    assert (made / npm.MODULES / "a" / "index.js").read_text() == "1"
    assert not Path("/tmp/pandastack-npm-ran").exists()
    assert said == ["fetching 1 packages of npm (good)"]
    (tmp_path / "work2").mkdir()
    other = "sha512-" + base64.b64encode(bytes(64)).decode()
    bad = tree_of(tmp_path / "bad", tmp_path / "a.tgz", other)
    with pytest.raises(BuildFailed, match="EINTEGRITY"):
        await npm.fetch([bad], tmp_path / "work2", tmp_path / "cache2", lambda what, _: None)


async def test_a_lock_without_hashes_is_refused(tmp_path: Path) -> None:
    packed(tmp_path / "a.tgz")
    tree = tree_of(tmp_path / "none", tmp_path / "a.tgz", None)
    with pytest.raises(InvalidRequest, match="node_modules/a has no sha512"):
        await npm.fetch([tree], tmp_path, tmp_path / "cache", lambda what, _: None)
    (tree.folder / npm.LOCK).write_text("{}")
    with pytest.raises(InvalidRequest, match="is no lock of npm"):
        npm.listed(tree)
