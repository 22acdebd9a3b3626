"""Disks that outlive sandboxes."""

from __future__ import annotations

import os
import uuid

from pandastack import BadRequestError, NotFoundError, Sandbox, get_default_client

from .registry import must_fail, program

HAS_DISKS = os.environ.get("WIRE_DRIVER") != "process"
"""The process driver's sandboxes are on the server's own disk: only the verbs can be tried there."""


@program
def a_volume_outlives_its_sandboxes(directory: str) -> None:
    client = get_default_client()
    name = f"data-{uuid.uuid4().hex[:8]}"
    made = client.volumes.create(name, 64)
    assert (made["name"], made["size_mb"]) == (name, 64)
    assert name in [each["name"] for each in client.volumes.list()]
    with Sandbox.create(template="base", volumes=[{"name": name}]) as first:
        if HAS_DISKS:
            first.exec(f"echo kept > /mnt/{name}/file", check=True)
        must_fail(BadRequestError, lambda: client.volumes.delete(name))
        must_fail(BadRequestError, lambda: Sandbox.create(template="base", volumes=[{"name": name}]))
    wish = {"name": name, "read_only": True}
    readers = [client.sandboxes.create(template="base", volumes=[wish]) for _ in range(2)]
    for reader in readers:
        if HAS_DISKS:
            assert reader.exec(f"cat /mnt/{name}/file", check=True).stdout == "kept\n"
            assert reader.exec(f"echo more > /mnt/{name}/file").exit_code != 0
        reader.kill()
    assert client.volumes.get(name)["size_bytes"] > 0
    client.volumes.delete(name)
    must_fail(NotFoundError, lambda: client.volumes.get(name))
    must_fail(NotFoundError, lambda: Sandbox.create(template="base", volumes=[{"name": name}]))


@program
def what_no_volume_can_be_is_refused(directory: str) -> None:
    client = get_default_client()
    must_fail(BadRequestError, lambda: client.volumes.create("no/name", 64))
    must_fail(BadRequestError, lambda: client.volumes.create("too-large", 1 << 20))
    must_fail(NotFoundError, lambda: client.volumes.get("missing"))
    must_fail(NotFoundError, lambda: client.volumes.delete("missing"))
