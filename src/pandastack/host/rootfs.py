"""A template's root file system: Debian packages, the template's files and its steps, laid out in a folder.

mmdebstrap does the installing, from a local repository that holds exactly the resolved packages, in
namespaces without a network: what is built depends on the recipe and those packages alone, and whatever a
step leaves running ends with it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from pandastack.errors import BuildFailed
from pandastack.host import npm, pypi
from pandastack.host.manifest import Recipe
from pandastack.host.packages import Archive, Package, Progress
from pandastack.host.publish import full_disk_said
from pandastack.host.sources import Source, local_source
from pandastack.host.tool import run_tool

BUILD_TIME = 1_700_000_000
"""The modification time of files that the build itself writes; the rest keep their package's."""

BUILD_SECONDS = 1800
SHADOW_DAY = BUILD_TIME // 86400

DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
)
"""Kept in the guest: what its users install is as slim and as quick."""

STEP_ENVIRONMENT = (
    "HOME=/root",
    "LC_ALL=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # Python's set order, and so what its programs write, must not differ from build to build.
    "PYTHONHASHSEED=0",
)

NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--net", "--mount-proc")
OUR_END_IS_THEIRS = ("setpriv", "--pdeathsig", "KILL", "--")
"""When this program dies, whatever way, so do all processes of the namespaces."""

MOUNTS = Path("/proc/self/mountinfo")
ISLAND = "/proc/tty"
GO_TO_ISLAND = f"""
mount --make-private /proc
mount --rbind / {ISLAND}
mount --make-rprivate {ISLAND}
exec chroot {ISLAND} "$@"
"""
"""Inside of a chroot "/" need not be a mount point, and only a mount point can be cut off from what others
mount. `/proc` is one: cut off, it takes a copy of "/" which is one too. Nothing of this is seen outside.
"""

MACHINE_STATE = """
    dev/* etc/machine-id etc/resolv.conf etc/ssh/ssh_host_* etc/.pwd.lock
    etc/passwd- etc/shadow- etc/group- etc/gshadow-
    etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/apt.conf.d/99mmdebstrap
    etc/dpkg/dpkg.cfg.d/99mmdebstrap
    var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/lib/dpkg/*-old var/lib/systemd/random-seed
    var/cache/ldconfig/aux-cache var/log/*.log var/log/apt/* tmp/* var/tmp/* run/*
""".split()  # noqa: SIM905  # one line a place is easier to read
"""What a machine makes for itself, or the build for itself: none of it belongs in an image."""

HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def wrapper() -> list[str]:
    """What is put before a program that builds: namespaces of its own, and as a plain user root's role in
    them. BuildFailed where such cannot be had.
    """
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user", "--map-auto")
    unshare = ("unshare", "--fork", "--kill-child=SIGKILL", *as_root, *NAMESPACES, "--")
    return [*OUR_END_IS_THEIRS, *_root_that_is_a_mount(), *unshare]


def _root_that_is_a_mount() -> tuple[str, ...]:
    try:
        mounted = {line.split()[4] for line in MOUNTS.read_text().splitlines()}
    except FileNotFoundError:
        mounted = set()
    if "/" in mounted:
        return ()
    if "/proc" not in mounted:
        raise BuildFailed("An image is built with /proc, which is missing here: mount -t proc proc /proc")
    return ("unshare", "--mount", "--propagation=unchanged", "--", "sh", "-euc", GO_TO_ISLAND, "sh")


class Fetched(Struct, frozen=True):
    """What came from registries, folders in the order of the recipe."""

    modules: tuple[Path, ...] = ()
    wheels: tuple[Path, ...] = ()


async def fetch(recipe: Recipe, work: Path, npm_cache: Path, progress: Progress) -> Fetched:
    """Have what a recipe wants of registries, below `work`. Raises BuildFailed, NoSpace."""
    modules = await npm.fetch(recipe.npm, work, npm_cache, progress)
    wheels = [
        await pypi.fetch(each, work / f"wheels-{number}", progress)
        for number, each in enumerate(recipe.wheels)
    ]
    return Fetched(tuple(modules), tuple(wheels))


async def build_tree(
    recipe: Recipe,
    archive: Archive,
    packages: Sequence[Package],
    fetched: Fetched,
    work: Path,
    progress: Progress,
) -> Path:
    """Lay out the root file system of `recipe` in a folder below `work` and return it.

    `packages` are all that get installed, already downloaded, but for what was `fetched` from registries. The
    folder may hold files of users that only
    `wrapper` can remove (see `remove_tree`). Raises BuildFailed with mmdebstrap's last lines, NoSpace.
    """
    repository, tree, started = work / "repository", work / "root", work / "started"
    with full_disk_said():
        lay_repository(repository, archive, packages, await archive.descriptions(packages), recipe.suite)
        (work / "sources").write_text(local_source(repository).stanza())
        started.touch()
    command = _mmdebstrap(recipe, fetched, work / "sources", tree)
    follow = _follower(len(packages), progress)
    settings = {"TMPDIR": str(work), "DEBIAN_FRONTEND": "noninteractive"}
    await run_tool(command, inside=wrapper(), timeout=BUILD_SECONDS, settings=settings, on_line=follow)
    progress("tidying up", None)
    script = _finishing(tree, started, archive.sources)
    await run_tool(["sh", "-euc", script], inside=wrapper(), timeout=BUILD_SECONDS)
    return tree


async def remove_tree(tree: Path) -> None:
    """Remove a built tree, whoever its files belong to; fine when there is none."""
    await run_tool(["rm", "-rf", "--one-file-system", tree], inside=wrapper(), timeout=BUILD_SECONDS)


def lay_repository(
    folder: Path, archive: Archive, packages: Iterable[Package], descriptions: str, suite: str
) -> None:
    """Make a package repository of exactly `packages`, as links to the downloaded files."""
    folder.mkdir()
    files = {(package.name, package.version): package for package in packages}
    entries: dict[tuple[str, str], str] = {}
    for entry in descriptions.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version): (.*)$", entry, re.MULTILINE))
        key = (fields.get("Package", ""), fields.get("Version", ""))
        if key in files:
            entries[key] = re.sub(r"(?m)^Filename: .*$", f"Filename: ./{files[key].file}", entry.strip())
    if missing := files.keys() - entries.keys():
        raise BuildFailed(f"The package lists have no entry for {sorted(missing)[0][0]}; try again.")
    for package in files.values():
        (folder / package.file).symlink_to(archive.path(package))
    (folder / "Packages").write_text("\n\n".join(entries[key] for key in sorted(entries)) + "\n")
    (folder / "Release").write_text(f"Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\n")


def _mmdebstrap(recipe: Recipe, fetched: Fetched, sources: Path, tree: Path) -> list[str]:
    trees = zip(fetched.modules, recipe.npm, strict=True)
    return [
        *("mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=apt"),
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.manifest.leave_out),
        f"--include={','.join(recipe.manifest.packages)}",
        *(f"--customize-hook={_lay_files(layer)}" for layer in recipe.layers),
        *(f"--customize-hook={_lay_modules(folder, each.target)}" for folder, each in trees),
        *(f"--customize-hook={_install_wheels(folder)}" for folder in fetched.wheels),
        *(f"--customize-hook={_run_step(step)}" for step in recipe.manifest.steps),
        *(recipe.suite, str(tree), str(sources)),
    ]


NORMAL = f"--owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@{BUILD_TIME}"
"""As root's files, whatever owner, umask and age they have."""


def _lay_files(layer: Path) -> str:
    """A hook that copies a folder over the root."""
    return f'tar -C {shlex.quote(str(layer))} {NORMAL} -c . | tar -C "$1" --no-overwrite-dir -x'


def _lay_modules(folder: Path, target: str) -> str:
    """A hook that copies a tree of modules to its place."""
    place = f'"$1"{shlex.quote(target)}'
    packed = f"tar -C {shlex.quote(str(folder))} {NORMAL} -c {npm.MODULES}"
    return f"mkdir -p {place} && {packed} | tar -C {place} --no-overwrite-dir -x"


def _install_wheels(folder: Path) -> str:
    """A hook that installs a folder's wheels into the guest's Python, without looking for others."""
    flags = "--quiet --no-index --no-deps --no-compile --no-cache-dir --root-user-action=ignore"
    install = _run_step(f"PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install {flags} /tmp/wheels/*.whl")
    return f'cp -r {shlex.quote(str(folder))} "$1/tmp/wheels" && {install} && rm -r "$1/tmp/wheels"'


def _run_step(step: str) -> str:
    return f'chroot "$1" env -i {" ".join(STEP_ENVIRONMENT)} sh -euc {shlex.quote(step)}'


def _follower(count: int, progress: Progress) -> Callable[[str], None]:
    """Turn dpkg's lines into progress: each package is unpacked once and set up once."""
    seen = 0

    def follow(line: str) -> None:
        nonlocal seen
        if line.startswith(("Unpacking ", "Setting up ")):
            seen += 1
            progress(f"installing {count} packages", min(1.0, seen / (2 * count)))
        elif line.startswith("I: running --customize-hook"):
            progress("running the template's steps", None)

    return follow


def _finishing(tree: Path, started: Path, sources: Iterable[Source]) -> str:
    """A script that removes what is a machine's own, and dates what the build wrote."""
    stanzas = "\n".join(source.stanza() for source in sources)
    return f"""
cd {shlex.quote(str(tree))}
rm -rf {" ".join(MACHINE_STATE)}
: > etc/machine-id
: > etc/resolv.conf
echo sandbox > etc/hostname
printf %s {shlex.quote(HOSTS)} > etc/hosts
printf '%s\n' {" ".join(map(shlex.quote, DPKG_OPTIONS))} > etc/dpkg/dpkg.cfg.d/slim
printf %s {shlex.quote(stanzas)} > etc/apt/sources.list.d/debian.sources
sed -i 's/^\\([^:]*:[^:]*\\):[0-9]*:/\\1:{SHADOW_DAY}:/' etc/shadow
find . -xdev -newer {shlex.quote(str(started))} -exec touch --no-dereference --date=@{BUILD_TIME} {{}} +
"""
