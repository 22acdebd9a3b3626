"""Where builds happen: a machine of the builder's template, with a volume that keeps layers from build to
build and one that becomes the root disk. It reaches what the build may reach, and ends with it.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.carrying import carried_through
from pandastack.errors import (
    BuildFailed,
    InvalidRequest,
    PandastackError,
    VolumeExists,
    VolumeNotFound,
)
from pandastack.model.account import Caller
from pandastack.model.build import BuildWish, Credentials, ImageConfig, OwnTemplate, pinned
from pandastack.model.comparison import Comparison, Package, compared
from pandastack.model.dockerfile import bases_of, dated, line_of, own_line, step_of
from pandastack.model.guest import Command, Guest
from pandastack.model.volume import VolumeCreate, VolumeWish
from pandastack.services.exits import Exits
from pandastack.services.glimpses import Glimpses
from pandastack.services.inputs import Drafts
from pandastack.services.sandboxes import Sandboxes
from pandastack.services.volumes import Volumes

TEMPLATE = "builder"
LAYERS, LAYERS_MB = ".layers", 8192
"""The volume for layers of a workspace, and its size."""

TOOLS = "/usr/local/lib/pandastack/build"
INPUT = "/build/input"
PIECE = 1 << 16
LAST_BYTES = 8192
"""So much of what a tool prints is looked at for the reason of its failure."""
TOLD_BYTES = 8 << 20
"""More is not taken of what a machine tells of an image."""

LISTING, MOST_LISTING_BYTES = "/build/tmp/listing.zst", 64 << 20
"""Where `tell content` leaves the list of all files."""
EPOCH_SECONDS = 315_532_800
"""The moment that steps of a Dockerfile take for now: the first day that a zip can tell."""
KEEP_LAYERS = "--layers"
NO_HISTORY = "internal error: history lists"
"""What buildah 1.28 says of a second step on an image that lists none, when it keeps layers."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PARSE_ERROR = re.compile(r"(?<=parse error line )\d+")

PLAIN_TAR = 3
"""What `make archive` ends with for a root file system that is no archive of an image."""

MOST_REFUSED = 50
"""So many destinations that a build was kept from are told."""

TOO_SMALL, NO_SHELL, BAD_INPUT = 28, 69, 65
"""What the tools end with that is the caller's to mend."""

Say = Callable[[bytes], Awaitable[None]]
"""Takes what a build prints."""


class Inspected(Struct, frozen=True):
    """What `buildah inspect` prints, as far as it is read."""

    OCIv1: Oci
    FromImage: str = ""
    FromImageDigest: str = ""


class Oci(Struct, frozen=True):
    """The image's configuration in the terms of the image specification."""

    config: ImageConfig = ImageConfig()


class LaidOut(Struct, frozen=True):
    """What a root file system is."""

    config: ImageConfig
    source: str
    content: str
    packages: list[Package]
    bases: dict[str, str]
    """The digests of the images that it was built on, by the names they were asked for with."""
    files: Drafts | None = None
    """What it was made of, and the list of what is in it."""


class Workshop:
    """A machine that builds. `say` hears all that its tools print."""

    def __init__(self, guest: Guest, say: Say, new_id: Callable[[], str]) -> None:
        self._guest = guest
        self._say = say
        self._new_id = new_id
        self._of_image = True
        """What is made is an image, and no plain root file system."""
        self._steps: list[str] = []
        """The instructions that a Dockerfile's build has come to."""
        self._unfinished = b""

    async def begin(self, credentials: Credentials) -> None:
        """Have it be empty but for layers, and able to come in at the registry."""
        await self._tool("begin")
        if credentials.username is not None:
            pair = f"{credentials.username}:{credentials.password or ''}"
            login = {"auth": base64.b64encode(pair.encode()).decode()}
            await self._write("/run/build/auth.json", {"auths": {credentials.registry or "docker.io": login}})
        if credentials.ca is not None:
            await self._put("/run/build/certs/registry.crt", _pieces(credentials.ca.encode()))

    async def make(
        self, wish: BuildWish, archive: Path | None, bases: Mapping[str, str] | None = None
    ) -> None:
        """Make the image that was asked for; with `bases`, of images of these digests. BuildFailed."""
        insecure = ["--tls-verify=false"] if wish.insecure else []
        if wish.image_ref is not None:
            await self._tool("make", "image", *insecure, wish.image_ref)
        elif wish.dockerfile is not None:
            text = dated(wish.dockerfile, EPOCH_SECONDS)
            await self._put(f"{INPUT}/Dockerfile", _pieces(text.encode()))
            await self._bring_context(archive)
            options = [f"--build-arg={name}={value}" for name, value in wish.build_args.items()]
            options += [f"--target={wish.target}"] if wish.target else []
            options += ["--no-cache"] if wish.no_cache else [KEEP_LAYERS]
            for name, digest in (bases or {}).items():
                if "@" not in name:  # one with a digest is that already
                    options += ["--build-context", f"{name}=docker-image://{pinned(name, digest)}"]
            await self._build(wish.dockerfile, *insecure, *options)
        elif archive is not None:
            await self._put(f"{INPUT}/rootfs", _file(archive))
            self._of_image = await self._tool("make", "archive", fine=(0, PLAIN_TAR)) == 0

    async def lay_out(self, wish: BuildWish, files: Drafts | None = None) -> LaidOut:
        """Put its root file system on the disk that is to be, and tell what it is; the list of what is in it
        becomes that of `files`. BuildFailed, InvalidRequest when the disk is too small or nothing can be run
        there.
        """
        await self._tool("lay-out", "image" if self._of_image else "tar")
        config, source, bases = ImageConfig(), "", dict[str, str]()
        if self._of_image:
            told = _decoded(await self._told("tell", "config"), Inspected)
            config = told.OCIv1.config
            if wish.image_ref is not None:
                source = f"{wish.image_ref}@{told.FromImageDigest}"
                bases = {wish.image_ref: told.FromImageDigest}
            else:
                bases = await self._bases()
        content = (await self._told("tell", "content")).decode().strip()
        lines = (await self._told("tell", "packages")).decode(errors="replace").splitlines()
        packages = [Package(*words) for words in (line.split("\t") for line in lines) if len(words) == 3]
        if files is not None:
            await self._fetch(LISTING, files.listing)
        return LaidOut(config, source, content, packages, bases, files)

    async def compare(self, listing: Path, before: OwnTemplate, now: LaidOut) -> Comparison:
        """What was laid out with an earlier build, of which this is the list. BuildFailed."""
        await self._put(f"{INPUT}/listing.zst", _file(listing))
        lines = (await self._told("compare")).decode(errors="replace").splitlines()
        try:
            return compared(lines, now.content, before.packages, now.packages)
        except (ValueError, KeyError) as error:
            raise BuildFailed(f"What differs cannot be read: {error}.") from error

    async def _bases(self) -> dict[str, str]:
        """The images that the Dockerfile's steps named, with their digests."""
        names = bases_of(self._steps)
        told = (await self._told("tell", "bases", *names)).decode().splitlines() if names else []
        return {name: digest for name, digest in zip(names, told, strict=False) if DIGEST.fullmatch(digest)}

    async def _build(self, dockerfile: str, *options: str) -> None:
        """Errors name the line of the Dockerfile."""
        try:
            await self._tool("make", "dockerfile", *options)
        except BuildFailed as error:
            if NO_HISTORY in error.message and KEEP_LAYERS in options:
                await self._say(b"An image below tells no history: layers of this build are not kept.\n")
                await self._build(dockerfile, *(each for each in options if each != KEEP_LAYERS))
                return
            step = self._steps[-1] if self._steps else ""
            line = line_of(dockerfile, step) if step else None
            where = f"line {line} of the Dockerfile ({step})" if line else "the Dockerfile"
            said = PARSE_ERROR.sub(lambda found: str(own_line(dockerfile, int(found[0]))), error.message)
            raise BuildFailed(f"The build failed at {where}:\n{said}") from error

    async def _bring_context(self, archive: Path | None) -> None:
        if archive is None:
            await self._guest.mkdir(f"{INPUT}/context")
            return
        await self._put(f"{INPUT}/context.tar", _file(archive))
        await self._tool("unpack")

    async def _put(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        await self._guest.write(path, pieces, mode=0o600)

    async def _write(self, path: str, value: object) -> None:
        await self._put(path, _pieces(msgspec.json.encode(value)))

    async def _tool(self, name: str, *words: str, fine: Sequence[int] = (0,)) -> int:
        """Run one to its end, which is one of those that are `fine`; what it prints is said."""
        last = b""
        command = Command(process_id=self._new_id(), argv=(f"{TOOLS}/{name}", *words))
        async with self._guest.run(command) as process:
            async for piece in process.output():
                last = (last + piece.data)[-LAST_BYTES:]
                self._note_steps(piece.data)
                await self._say(piece.data)
            code = (await process.wait()).exit_code
        if code in {TOO_SMALL, NO_SHELL, BAD_INPUT}:
            raise InvalidRequest(_last_words(last))
        if code not in fine:
            raise BuildFailed(_last_words(last) or f"The build ended with {code}.")
        return code

    def _note_steps(self, said: bytes) -> None:
        *lines, rest = (self._unfinished + said).split(b"\n")
        self._unfinished = rest[-LAST_BYTES:]
        self._steps += filter(None, (step_of(line.decode(errors="replace")) for line in lines))

    async def _fetch(self, path: str, into: Path) -> None:
        """Take a file of the machine's. BuildFailed when it is too large."""
        async with self._guest.read(path) as reader:
            with into.open("wb") as file:
                async for piece in reader:
                    await asyncio.to_thread(file.write, piece)
                    if file.tell() > MOST_LISTING_BYTES:
                        raise BuildFailed("The image has more files than can be listed.")

    async def _told(self, name: str, *words: str) -> bytes:
        """What a tool prints, which is not said."""
        told = b""
        command = Command(process_id=self._new_id(), argv=(f"{TOOLS}/{name}", *words))
        async with self._guest.run(command) as process:
            async for piece in process.output():
                told += piece.data
                if len(told) > TOLD_BYTES:
                    raise BuildFailed("The image tells more of itself than is taken.")
            code = (await process.wait()).exit_code
        if code != 0:
            raise BuildFailed(_last_words(told) or f"{name} ended with {code}.")
        return told


class Workshops:
    """All that there are."""

    def __init__(
        self,
        glimpses: Glimpses,
        volumes: Volumes,
        sandboxes: Sandboxes,
        exits: Exits,
        new_id: Callable[[], str],
    ) -> None:
        self._glimpses = glimpses
        self._volumes = volumes
        self._sandboxes = sandboxes
        self._exits = exits
        self._new_id = new_id

    @asynccontextmanager
    async def disk(self, caller: Caller, build_id: str, size_mb: int) -> AsyncIterator[VolumeWish]:
        """A volume that is to become a root disk, gone at the end of the block. Errors: those of a volume."""
        caller = caller.quietly()
        name = f".{build_id}"
        await self._volumes.create(caller, VolumeCreate(name, size_mb))
        try:
            yield VolumeWish(name, "/out")
        finally:
            await carried_through(self._volumes.delete(caller, name))

    @asynccontextmanager
    async def open(
        self, caller: Caller, wish: BuildWish, disk: VolumeWish, say: Say
    ) -> AsyncIterator[Workshop]:
        """A machine to build in, for the length of the block; then all is on the disk. Errors: those of a
        create.
        """
        await self._have_layers(caller)
        wishes = [VolumeWish(LAYERS, "/build"), disk]
        async with AsyncExitStack() as stack:
            opening = self._glimpses.of_template(caller, TEMPLATE, wishes, wish.egress, wish.timeout_seconds)
            sandbox_id = await stack.enter_async_context(opening)
            guest = await stack.enter_async_context(self._sandboxes.use(caller, sandbox_id))
            try:
                yield Workshop(guest, say, self._new_id)
            except BuildFailed:
                await self._tell_refused(caller, sandbox_id, say)
                raise
            await self._tell_refused(caller, sandbox_id, say)

    async def _tell_refused(self, caller: Caller, sandbox_id: str, say: Say) -> None:
        """Say what its policy has kept from it, which may be why it failed."""
        with suppress(PandastackError):
            receipts = (await self._exits.receipts(caller, sandbox_id)).receipts
            told = [
                f"refused: {each.name or each.address} port {each.port} ({each.rule})\n"
                for each in receipts
                if not each.allowed
            ]
            await say("".join(told[:MOST_REFUSED]).encode())

    async def missed(self) -> None:
        """Before anything is served: end the machines of an earlier server, and delete what they wrote."""
        await self._glimpses.end_those_with(LAYERS)
        await self._volumes.delete_hidden(but=LAYERS)

    async def id_of(self, caller: Caller, disk: VolumeWish) -> str:
        """What hosts call it."""
        return (await self._volumes.get(caller, disk.name)).id

    async def _have_layers(self, caller: Caller) -> None:
        try:
            await self._volumes.get(caller, LAYERS)
        except VolumeNotFound:
            try:
                await self._volumes.create(caller.quietly(), VolumeCreate(LAYERS, LAYERS_MB))
            except VolumeExists:
                return


def _last_words(said: bytes) -> str:
    """What a tool says is wrong; where it marks no line as that, its last ones."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    wrong = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("error:")]
    return "\n".join(wrong[-2:] or lines[-5:])


def _decoded(data: bytes, kind: type[Inspected]) -> Inspected:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BuildFailed(f"What the image says of itself cannot be read: {error}.") from error


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


async def _file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE * 4):
            yield piece
