"""Templates of one's own."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pandastack import NotFoundError, Sandbox, get_default_client

from .registry import must_fail, program

ROOTFS = os.environ.get("WIRE_ROOTFS")
"""A root file system; without one the server's machines have no disks, and only the verbs can be tried."""


@program
def a_template_is_built_and_used(directory: str) -> None:
    client = get_default_client()
    if ROOTFS is None:
        must_fail(NotFoundError, lambda: client.templates.get_build("missing"))
        assert client.templates.builds() == []
        return
    name = f"own-{uuid.uuid4().hex[:8]}"
    built = client.templates.build(name, rootfs_tar=ROOTFS, size_mb=96)
    assert built.status == "done", built.error
    assert built.bytes
    assert name in [each.name for each in client.templates.list()]
    assert client.templates.get(name).is_global is False
    with Sandbox.create(template=name) as sandbox:
        assert sandbox.exec("echo it runs", check=True).stdout == "it runs\n"
    context = Path(directory) / "context"
    (context / "deep").mkdir(parents=True)
    (context / "rootfs.tar").write_bytes(Path(ROOTFS).read_bytes())
    (context / "deep" / "file").write_text("copied\n")
    text = "FROM scratch\nADD rootfs.tar /\nCOPY deep/file /file\nENV COLOUR=green\n"
    second = client.templates.build_from_dockerfile(f"{name}-d", text, context_dir=str(context), size_mb=96)
    lines = list(client.templates.build_logs(second.id))
    assert any("COPY deep/file" in line for line in lines)
    assert client.templates.wait_for_build(second.id).is_done
    with Sandbox.create(template=f"{name}-d") as sandbox:
        assert sandbox.exec("cat /file; echo $COLOUR", check=True).stdout == "copied\ngreen\n"
    assert {built.id, second.id} <= {each.id for each in client.templates.builds()}
    for each in (name, f"{name}-d"):
        client.templates.delete(each)
    must_fail(NotFoundError, lambda: client.templates.get(name))


@program
def a_template_that_cannot_be_built_is_told(directory: str) -> None:
    client = get_default_client()
    if ROOTFS is None:
        return
    begun = client.templates.build_from_dockerfile("wrong", "FROM scratch\nNONSENSE\n", size_mb=64)
    lines = list(client.templates.build_logs(begun.id))
    assert any("error" in line for line in lines)
    ended = client.templates.get_build(begun.id)
    assert ended.is_failed
    assert "NONSENSE" in (ended.error or "")
    must_fail(NotFoundError, lambda: client.templates.get("wrong"))
