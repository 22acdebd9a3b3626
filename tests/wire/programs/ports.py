"""Ports of sandboxes as the official SDK asks for them."""

from __future__ import annotations

from .registry import make, program


@program
def addresses_of_previews(directory: str) -> None:
    with make() as sandbox:
        address = sandbox.preview_url(8000, scheme="http")
        assert address.startswith(f"http://8000-{sandbox.id}.")
        sandbox.exec("nohup python3 -m http.server 8765 --bind 127.0.0.1 >/dev/null 2>&1 &")
        sandbox.exec("until curl --silent --output /dev/null http://127.0.0.1:8765/; do sleep 0.2; done")
        found = sandbox.preview_urls()
        assert f"8765-{sandbox.id}." in found[8765]
        assert 22 not in found
