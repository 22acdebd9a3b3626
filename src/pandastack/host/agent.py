"""The guest agent's binary: from the installed package, or compiled from the checkout it runs in."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from pandastack.errors import BuildFailed
from pandastack.host.paths import AGENT_NAME, Cache
from pandastack.host.publish import locked, new_directory
from pandastack.host.tool import run_tool

BUNDLE = "_bundle"
COMPILE_SECONDS = 300


def package_root() -> Path:
    """The folder of the package `pandastack` as it is installed."""
    return Path(str(resources.files("pandastack")))


def checkout_root() -> Path | None:
    """The source checkout that this program runs in, or None for an installed one."""
    root = package_root().parent.parent
    return root if (root / "guest" / "Makefile").is_file() else None


def find_images_dir() -> Path:
    """The folder of the templates that come with the program."""
    bundled = package_root() / BUNDLE / "images"
    checkout = checkout_root()
    if checkout is not None and not bundled.is_dir():
        return checkout / "images"
    return bundled


def find_agent(cache: Cache) -> Path | None:
    """The agent's binary if it is there: bundled, or compiled from the sources as they are now."""
    bundled = package_root() / BUNDLE / AGENT_NAME
    checkout = checkout_root()
    if checkout is None or bundled.is_file():
        return bundled if bundled.is_file() else None
    compiled = cache.agent(source_digest(checkout / "guest"))
    return compiled if compiled.is_file() else None


async def ensure_agent(cache: Cache) -> Path:
    """Have the agent's binary, compiling the checkout's sources when they changed. Raises BuildFailed."""
    found = find_agent(cache)
    if found is not None:
        return found
    checkout = checkout_root()
    if checkout is None:
        raise BuildFailed(
            "This installation carries no guest agent; install the wheel, or run from a checkout."
        )
    async with locked(cache.lock("agent")):
        return await compile_agent(checkout / "guest", cache)


async def compile_agent(sources: Path, cache: Cache) -> Path:
    """Compile the agent of the folder `sources` with its Makefile."""
    binary = cache.agent(source_digest(sources))
    if not binary.is_file():
        with new_directory(binary.parent) as draft:
            await run_tool(["make", "-C", sources, f"OUT={draft}"], timeout=COMPILE_SECONDS)
            if not (draft / AGENT_NAME).is_file():
                raise BuildFailed(f"make in {sources} made no {AGENT_NAME}.")
    return binary


def source_digest(sources: Path) -> str:
    """SHA-256 over the names and contents of all that the agent is compiled from."""
    total = hashlib.sha256()
    for path in sorted([sources / "Makefile", *(sources / "src").rglob("*")]):
        if path.is_file() and path.suffix in ("", ".c", ".h"):
            total.update(
                f"{path.relative_to(sources)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
    return total.hexdigest()
