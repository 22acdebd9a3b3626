"""Build hook: the wheel carries agent and image folders, so `pip install` alone gives the whole program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BundleHook(BuildHookInterface):  # type: ignore[misc]  # typed only while a wheel is built
    """Compile the agent and copy `images/` into `pandastack/_bundle` of a wheel.

    An editable install reads the checkout instead.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        bundle = root / "src" / "pandastack" / "_bundle"
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir(parents=True)
        for part in ("guest", "zygote", "jail"):
            subprocess.run(["make", "-C", str(root / part), f"OUT={bundle}"], check=True)
        shutil.copytree(root / "images", bundle / "images")
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The checkout never runs from a bundle: what it would hold grows old."""
        shutil.rmtree(Path(self.root) / "src" / "pandastack" / "_bundle", ignore_errors=True)
