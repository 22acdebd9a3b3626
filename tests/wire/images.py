"""Small images for builds: a root file system of this machine's own programs, plain and as an OCI archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

PROGRAMS = (
    "sh",
    "cat",
    "chown",
    "cp",
    "date",
    "echo",
    "env",
    "false",
    "head",
    "id",
    "ls",
    "mkdir",
    "mv",
    "pwd",
)
MORE = ("ps", "rm", "sleep", "stat", "sync", "tail", "test", "touch", "true", "uname")
PEOPLE = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUPS = "root:x:0:\napp:x:1000:\n"


def root_tree(folder: Path, programs: Iterable[str] = (*PROGRAMS, *MORE)) -> Path:
    """A root file system with these programs and what they are linked with."""
    paths = {found for name in programs if (found := shutil.which(name))}
    for path in sorted(paths):
        _take(Path(path), folder / "bin" / Path(path).name)
        told = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+)", told):
            _take(Path(library), folder / library.lstrip("/"))
    for name, text in (("passwd", PEOPLE), ("group", GROUPS)):
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc" / name).write_text(text)
    for name in ("home/app", "tmp", "usr/bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def packed(folder: Path) -> bytes:
    """A folder as a tar, everything root's."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_of_root)
    return raw.getvalue()


def oci_archive(layer: bytes, config: Mapping[str, object]) -> bytes:
    """An image of one layer, as `skopeo copy … oci-archive:` writes it."""
    said = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    document = json.dumps(said).encode()
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _described(document, f"{kind}.config.v1+json"),
        "layers": [_described(layer, f"{kind}.layer.v1.tar")],
    }
    listed = json.dumps(manifest).encode()
    index = {"schemaVersion": 2, "manifests": [_described(listed, f"{kind}.manifest.v1+json")]}
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (document, layer, listed)}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **blobs,
    }
    return tar_of(files)


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """These files as a tar."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return raw.getvalue()


def _take(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(source), target)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _described(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}
