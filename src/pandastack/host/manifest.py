"""What a template is made of: `template.toml` and the files beside it, read strictly, and the chain of its
bases.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from pandastack.errors import InvalidRequest, TemplateNotFound
from pandastack.host.npm import LOCK, WANTED, NpmTree
from pandastack.model.image import Ready

MANIFEST = "template.toml"
MAX_BASES = 8

BUILDER_VERSION = 1
"""Counts changes of the builder that change what comes out for the same recipe and packages."""

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class TemplateManifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The content of `template.toml`.

    With a `base`, lists (packages, leave_out, steps, tools, warm) follow the base's, `env` is laid over the
    base's, the rest replaces the base's where it is given. Sizes are MiB.
    """

    # A new field must have a default, which digests leave out: so it changes no image that does not use it.

    label: str
    description: str
    category: str = "general"
    base: Name | None = None
    suite: Annotated[str, Meta(pattern=r"^[a-z]+$")] | None = None
    """The Debian release; required without a base, refused with one."""
    tools: tuple[str, ...] = ()
    """What a user finds in it, for people to read."""
    packages: tuple[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]+$")], ...] = ()
    leave_out: tuple[Annotated[str, Meta(pattern=r"^/\S+$")], ...] = ()
    """Which files of the packages are not unpacked: patterns of whole paths, where `*` matches `/` too."""
    files: str = "files"
    """The folder beside the manifest that is laid over the root before the steps run; it need not exist."""
    npm: dict[
        Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")], Annotated[str, Meta(pattern=r"^/\S+$")]
    ] = {}
    """Folders beside the manifest with a `package.json` and its lock, and the directory of the guest that
    gets each one's `node_modules` before the steps run, in this order.
    """
    wheels: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")] | None = None
    """A file beside the manifest with the wheels that are installed into the guest's Python before the steps
    run: `NAME==VERSION --hash=sha256:…`, a line each, with all that they need.
    """
    steps: tuple[str, ...] = ()
    """Shell lines that run in the new root, as its root user, without a network."""
    cpu: Annotated[int, Meta(ge=1, le=64)] | None = None
    memory_mb: Annotated[int, Meta(ge=128, le=1 << 20)] | None = None
    disk_mb: Annotated[int, Meta(ge=512, le=1 << 24)] | None = None
    env: dict[str, str] = {}
    """The default environment of every command in the guest."""
    workdir: Annotated[str, Meta(pattern=r"^/")] | None = None
    """Where commands start that name no directory; their user's home when it may not be entered, and when no
    link of the chain says.
    """
    user: str | None = None
    """As whom commands run that name nobody, and `start`; None is root."""
    start: str | None = None
    """A shell line that runs on in the guest from the bake, and so in every sandbox."""
    ready: Ready | None = None
    warm: tuple[str, ...] = ()
    """Shell lines that run to their end before the snapshot is taken, to have files and pages in memory."""
    on_demand: bool = False
    """A server makes it ready when it is first wanted, not at its start. Not inherited."""


class Recipe(Struct, frozen=True, kw_only=True):
    """A template with all that it inherits: everything that goes into its root disk."""

    name: str
    manifest: TemplateManifest
    """Of the whole chain: nothing that a base gives is missing in it."""
    layers: tuple[Path, ...]
    """The folders of files, the base's first."""
    npm: tuple[NpmTree, ...] = ()
    """The trees of modules, the base's first."""
    wheels: tuple[Path, ...] = ()
    """The files of wheels, the base's first."""
    digest: str
    """SHA-256 over the manifests and the files of the chain, and the version of the builder."""

    @property
    def cpu(self) -> int:
        return self.manifest.cpu or 1

    @property
    def memory_mb(self) -> int:
        return self.manifest.memory_mb or 512

    @property
    def disk_mb(self) -> int:
        return self.manifest.disk_mb or 4096

    @property
    def suite(self) -> str:
        return self.manifest.suite or ""


def template_names(images_dir: Path) -> list[str]:
    """The templates that have a folder here, by name."""
    return sorted(path.parent.name for path in images_dir.glob(f"*/{MANIFEST}"))


def read_manifest(path: Path) -> TemplateManifest:
    """Read one `template.toml`. Raises InvalidRequest with the file, the field and what is wrong with it."""
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is no TOML: {error}.") from error
    _refuse_unknown(path, fields)
    try:
        manifest = msgspec.convert(fields, TemplateManifest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{path}: {error}.") from error
    if (manifest.base is None) == (manifest.suite is None):
        raise InvalidRequest(f"{path}: a template names either a `base` or, without one, a `suite`.")
    return manifest


def _refuse_unknown(path: Path, fields: dict[str, Any]) -> None:
    known = TemplateManifest.__struct_fields__
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise InvalidRequest(f"{path}: there is no field `{name}`.{hint}")


def load_recipe(name: str, images_dir: Path) -> Recipe:
    """The recipe of template `name`.

    Raises TemplateNotFound when it or a base of it has no folder, InvalidRequest when a manifest is wrong or
    the bases go in a circle.
    """
    chain = list(_chain(name, images_dir))
    chain.reverse()
    manifest = chain[0][1]
    for _, child in chain[1:]:
        manifest = _inherit(manifest, child)
    layers = tuple(folder / link.files for folder, link in chain if (folder / link.files).is_dir())
    npm = tuple(NpmTree(folder / name, to) for folder, link in chain for name, to in link.npm.items())
    wheels = tuple(folder / link.wheels for folder, link in chain if link.wheels)
    digest = _digest(chain)
    return Recipe(name=name, manifest=manifest, layers=layers, npm=npm, wheels=wheels, digest=digest)


def _chain(name: str, images_dir: Path) -> Iterator[tuple[Path, TemplateManifest]]:
    """The folder and manifest of `name`, of its base, of that one's base …"""
    link: str | None = name
    for _ in range(MAX_BASES):
        if link is None:
            return
        folder = images_dir / link
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", link) or not (folder / MANIFEST).is_file():
            known = ", ".join(template_names(images_dir)) or "none"
            raise TemplateNotFound(f"There is no template {link!r} here; known: {known}.")
        manifest = read_manifest(folder / MANIFEST)
        yield folder, manifest
        link = manifest.base
    raise InvalidRequest(f"The bases of template {name!r} go in a circle, or are more than {MAX_BASES}.")


def _inherit(base: TemplateManifest, child: TemplateManifest) -> TemplateManifest:
    return msgspec.structs.replace(
        child,
        suite=base.suite,
        tools=(*base.tools, *child.tools),
        packages=(*base.packages, *child.packages),
        leave_out=(*base.leave_out, *child.leave_out),
        steps=(*base.steps, *child.steps),
        warm=(*base.warm, *child.warm),
        env={**base.env, **child.env},
        cpu=child.cpu or base.cpu,
        memory_mb=child.memory_mb or base.memory_mb,
        disk_mb=child.disk_mb or base.disk_mb,
        workdir=child.workdir or base.workdir,
        user=child.user or base.user,
        start=child.start or base.start,
        ready=child.ready or base.ready,
    )


def _digest(chain: Sequence[tuple[Path, TemplateManifest]]) -> str:
    total = hashlib.sha256(f"{BUILDER_VERSION}\n".encode())
    for folder, manifest in chain:
        total.update(hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).digest())
        for line in _tree_lines(folder / manifest.files):
            total.update(line)
        for path in _named(folder, manifest):
            if not path.is_file():
                raise InvalidRequest(f"{folder / MANIFEST} names {path}, which is not there.")
            total.update(b"named %s\n" % hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _named(folder: Path, manifest: TemplateManifest) -> Iterator[Path]:
    """The files that say what comes from registries."""
    for tree in manifest.npm:
        yield from (folder / tree / name for name in (WANTED, LOCK))
    if manifest.wheels:
        yield folder / manifest.wheels


def _tree_lines(folder: Path) -> Iterator[bytes]:
    """One line for each file of a tree: its name, whether it may be executed, and its content's hash."""
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        if path.is_symlink():
            yield b"link %s %s\n" % (name, os.fsencode(path.readlink()))
        elif path.is_dir():
            yield b"folder %s\n" % name
        else:
            executable = b"x" if path.stat().st_mode & stat.S_IXUSR else b"-"
            yield b"file %s %s %s\n" % (name, executable, hashlib.sha256(path.read_bytes()).digest())
