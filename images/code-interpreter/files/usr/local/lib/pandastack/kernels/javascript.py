"""The JavaScript kernel: one Node.js that runs on."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, ClassVar

from program import ProgramKernel, serve


class JavaScript(ProgramKernel):
    """Node.js with `javascript.js`, which runs cells as its own console does: declarations stay, `await` is understood."""

    language = "javascript"
    language_version = "18"
    banner = "Node.js"
    language_info: ClassVar[dict[str, str]] = {
        "name": "javascript",
        "mimetype": "text/javascript",
        "file_extension": ".js",
    }
    command = ("node", f"{os.path.dirname(os.path.abspath(__file__))}/javascript.js")

    def order(self, code: str) -> bytes:
        """A line of JSON."""
        return json.dumps(code).encode() + b"\n"

    def outcome(self, line: str) -> dict[str, Any]:
        told = json.loads(line)
        if "error" in told:
            return {"status": "error", **told["error"]}
        return {"status": "ok", "result": {"text/plain": told["text"]} if told.get("text") else None}


if __name__ == "__main__":
    serve(JavaScript, sys.argv[1])
