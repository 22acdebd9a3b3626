"""Templates of one's own, built on a real server by our SDK: what comes of them, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.wire import programs
from tests.wire.images import oci_archive, packed, root_tree, tar_of

from pandastack import Client, NotFoundError, PandastackError, TemplateBuild, TemplateBuildError
from pandastack.testing.server import Server, running_server

pytestmark = [
    pytest.mark.wire,
    pytest.mark.vm,
    pytest.mark.timeout(300, func_only=True),
]

SIZE_MB = 96
SETTINGS = {"PANDASTACK_REHEARSE": "false", "PANDASTACK_READY_TEMPLATES": "builder"}
DROPPED_SECONDS = 60
"""An image that something ran of when its template was deleted goes soon after that."""
TICKS = "#!/bin/sh\nwhile true; do date >> /tmp/ticks; sleep 1; done\n"
DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
ARG WHO=nobody
ENV GREETING="hello $WHO" PATH=/bin:/usr/bin
COPY sub/ticks /opt/ticks
RUN echo "$WHO" > /built && chown app /home/app
WORKDIR /srv/work
USER app
CMD ["/opt/ticks"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("builds")
    with running_server(home, settings=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, server.token) as client:
        yield client


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return packed(root_tree(tmp_path_factory.mktemp("root")))


@pytest.fixture
def context(tmp_path: Path, root: bytes) -> Path:
    """A folder to build of."""
    folder = tmp_path / "context"
    (folder / "sub").mkdir(parents=True)
    (folder / "rootfs.tar").write_bytes(root)
    (folder / "sub" / "ticks").write_text(TICKS)
    (folder / "sub" / "ticks").chmod(0o755)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_left(client: Client, server: Server) -> Iterator[None]:
    """Of a build there are its template, its lines and the layers, and nothing else."""
    yield
    assert client.sandboxes.list() == []
    assert client.volumes.list() == []
    assert not any((server.state / "builds").iterdir())
    assert len([*(server.state / "w").iterdir()]) <= 1, "the volume for layers"
    kept = {f"{each.name}:{each.version}" for each in client.templates.list() if not each.is_global}
    names = {name.split(":")[0] for name in kept}
    versions = [version for name in names for version in client.templates.versions(name)]
    deadline = time.monotonic() + DROPPED_SECONDS
    while len(found := _images(server)) != len(versions):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def _images(server: Server) -> list[str]:
    return [entry.name for entry in (server.state / "i").iterdir() if not entry.name.startswith(".")]


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DROPPED_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def failed(client: Client, begun: TemplateBuild) -> TemplateBuild:
    """The build when it has failed, after everything that it said."""
    lines = [*client.templates.build_logs(begun.id)]
    with pytest.raises(TemplateBuildError) as caught:
        client.templates.wait_for_build(begun.id)
    found = caught.value.build
    assert found is not None
    assert found.error == str(caught.value)
    assert f"error: {(found.error or '').splitlines()[0]}" in lines
    return found


def test_a_dockerfile_becomes_a_running_program(client: Client, server: Server, context: Path) -> None:
    lines: list[str] = []
    built = client.templates.build(
        "ticks",
        str(context / "Dockerfile"),
        size_mb=SIZE_MB,
        ready="test -s /tmp/ticks",
        tag="prod",
        build_args={"WHO": "panda"},
        on_log=lines.append,
    )
    assert built.template == "ticks:1"
    assert any(line.startswith("STEP 2/") for line in lines)
    for name in ("ticks", "ticks:1", "ticks:prod", "ticks:latest"):
        with client.sandboxes.create(name) as sandbox:
            assert sandbox.template == "ticks:1"
    (image,) = _images(server)  # a hash of names that others may guess
    for name in (image, f"{image}+1-512-1024"):
        with pytest.raises(NotFoundError, match="unknown template"):
            client.sandboxes.create(name)
    with client.sandboxes.create("ticks") as sandbox:
        said = sandbox.exec(
            "id -un; pwd; echo $GREETING; cat /built; stat -c %U /home/app", check=True
        ).stdout
        assert said.split("\n")[:5] == ["app", "/srv/work", "hello panda", "panda", "app"]
        before = len(sandbox.filesystem.read("/tmp/ticks").splitlines())
        time.sleep(2.5)
        assert len(sandbox.filesystem.read("/tmp/ticks").splitlines()) > before > 0, "it runs since the bake"
        assert sandbox.exec("id -un", user="root").stdout == "root\n"


def test_a_version_is_built_again_and_compared(client: Client, server: Server, context: Path) -> None:
    lines: list[str] = []
    assert client.templates.verify("ticks", on_log=lines.append).result == "identical"
    assert "— comparing" in lines and not any("Using cache" in line for line in lines)
    verified = client.templates.builds()[0]
    assert (verified.verifies, verified.template, verified.version) == ("ticks:1", None, 1)
    assert [each.version for each in client.templates.versions("ticks")] == [1], "it publishes nothing"
    text = "FROM scratch\nADD rootfs.tar /\nRUN mkdir -p /var/log; date +%N > /var/log/when\n"
    text += "RUN head -c 9 /dev/urandom > '/by chance'; echo $SOURCE_DATE_EPOCH > /epoch\n"
    begun = client.templates.build_from_dockerfile(
        "chance", text, context_dir=str(context), size_mb=SIZE_MB, start="true"
    )
    assert client.templates.wait_for_build(begun.id).is_done
    found = client.templates.verify("chance")
    assert (found.result, found.paths, found.traces) == ("differs", 1, 1), found
    assert [(each.path, each.how, each.trace) for each in found.differences] == [
        ("/by chance", "changed", False),
        ("/var/log/when", "changed", True),
    ]
    with client.sandboxes.create("chance") as sandbox:
        assert sandbox.exec("cat /epoch").stdout == "315532800\n"
    client.templates.delete("chance")
    with pytest.raises(NotFoundError):
        client.templates.verify("chance")
    _wait_until(lambda: len([*(server.state / "inputs").iterdir()]) == 2, "those of ticks alone")


def test_versions_layers_and_the_way_back(client: Client, context: Path) -> None:
    dockerfile = str(context / "Dockerfile")
    with pytest.raises(PandastackError, match="already exists") as caught:
        client.templates.build("ticks", dockerfile, size_mb=SIZE_MB)
    assert caught.value.code == "template.exists"
    with Path(dockerfile).open("a") as file:
        file.write("ENV SECOND=yes\n")
    lines: list[str] = []
    args = {"WHO": "panda"}
    built = client.templates.build(
        "ticks", dockerfile, size_mb=SIZE_MB, replace=True, build_args=args, on_log=lines.append
    )
    assert built.template == "ticks:2"
    assert sum("Using cache" in line for line in lines) >= 5, "the layers of the build before"
    assert [each.version for each in client.templates.versions("ticks")] == [2, 1]
    with client.sandboxes.create("ticks") as second, client.sandboxes.create("ticks:1") as first:
        assert second.exec("echo $SECOND").stdout == "yes\n"
        assert first.exec("echo $SECOND").stdout == "\n"
        client.templates.tag("ticks", "latest", 1)
        with client.sandboxes.create("ticks") as back:
            assert back.template == "ticks:1"
        kept = first.snapshot()
        client.templates.delete("ticks")
        assert not [each for each in client.templates.list() if each.name == "ticks"]
        with pytest.raises(NotFoundError):
            client.sandboxes.create("ticks:1")
        assert second.exec("echo still here").stdout == "still here\n"
        child = second.fork()
        assert child.exec("echo $SECOND").stdout == "yes\n"
        child.kill()
    with client.sandboxes.create(from_snapshot=kept) as restored:
        assert restored.exec("cat /built").stdout == "panda\n"
    client.snapshots.delete(kept)


@pytest.mark.parametrize("name", ["a_template_is_built_and_used", "a_template_that_cannot_be_built_is_told"])
def test_the_official_sdk_builds(
    name: str, official_python: Path, server: Server, root: bytes, tmp_path: Path
) -> None:
    archive = tmp_path / "rootfs.tar"
    archive.write_bytes(root)
    own = {name: value for name, value in os.environ.items() if not name.startswith("PANDASTACK_")}
    where = {"PANDASTACK_API": server.url, "PANDASTACK_API_KEY": server.token, "WIRE_ROOTFS": str(archive)}
    command = [str(official_python), "-m", "programs", name, str(tmp_path)]
    folder = Path(programs.__file__).parents[1]
    done = subprocess.run(
        command, cwd=folder, env={**own, **where}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_archive_of_an_image_is_run_as_it_says(client: Client, root: bytes, tmp_path: Path) -> None:
    config = {"Env": ["COLOUR=green", "PATH=/bin"], "User": "1000:1000", "WorkingDir": "/new/place"}
    archive = tmp_path / "image.tar"
    archive.write_bytes(oci_archive(root, config))
    built = client.templates.build("archive", rootfs_tar=str(archive), size_mb=SIZE_MB)
    assert built.is_done
    with client.sandboxes.create("archive") as sandbox:
        assert sandbox.exec("echo $COLOUR; id -u; pwd").stdout == "green\n1000\n/new/place\n"
    client.templates.delete("archive")


def test_a_root_file_system_of_any_packing(client: Client, root: bytes, tmp_path: Path) -> None:
    plain, packed_ = tmp_path / "rootfs.tar", tmp_path / "rootfs.tar.xz"
    plain.write_bytes(root)
    subprocess.run(["xz", "--keep", "-1", plain], check=True)
    built = client.templates.build("plain", rootfs_tar=str(packed_), size_mb=SIZE_MB, memory_mb=256)
    assert built.is_done
    with client.sandboxes.create("plain") as sandbox:
        assert sandbox.memory_mb == 256
        assert sandbox.exec("cat /etc/group").stdout.startswith("root:")
    client.templates.delete("plain")


@pytest.mark.parametrize(
    ("dockerfile", "told"),
    [
        ("FROM scratch\nADD rootfs.tar /\n\nRUN echo one && \\\n    false\n", "line 4 of the Dockerfile"),
        ("FROM scratch\nADDD rootfs.tar /\n", 'Unknown instruction: "ADDD"'),
        ("FROM scratch\nCOPY missing /\n", "line 2 of the Dockerfile"),
        ("FROM nowhere.example/image\n", "nowhere.example"),
        ("FROM scratch\nCOPY sub /sub\n", "no /bin/sh"),
    ],
)
def test_what_is_wrong_with_a_dockerfile_is_told(
    client: Client, context: Path, dockerfile: str, told: str
) -> None:
    begun = client.templates.build_from_dockerfile(
        "bad", dockerfile, context_dir=str(context), size_mb=SIZE_MB
    )
    assert told in (failed(client, begun).error or "")
    with pytest.raises(NotFoundError):
        client.templates.get("bad")


def test_a_disk_that_is_too_small_says_what_it_takes(client: Client, context: Path) -> None:
    text = "FROM scratch\nADD rootfs.tar /\nRUN head -c 40000000 /dev/zero > /large\n"
    begun = client.templates.build_from_dockerfile("large", text, context_dir=str(context), size_mb=32)
    error = failed(client, begun).error or ""
    assert "does not fit" in error
    assert "size_mb of at least" in error


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"start": "echo it goes wrong; exit 7"}, "ended with 7"),
        ({"start": "echo waiting; sleep 1000", "ready": "false", "ready_timeout_seconds": 2}, "within 2 s"),
    ],
)
def test_what_does_not_start_is_told_with_its_last_words(
    client: Client, root: bytes, tmp_path: Path, options: dict[str, object], told: str
) -> None:
    archive = tmp_path / "rootfs.tar"
    archive.write_bytes(root)
    begun = client.templates.build_from_rootfs("dead", str(archive), size_mb=SIZE_MB, **options)  # type: ignore[arg-type]  # options of it
    error = failed(client, begun).error or ""
    assert told in error
    assert ("goes wrong" in error) or ("waiting" in error)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_context_that_leads_out_of_itself_is_refused(server: Server, name: str) -> None:
    files = {name: (name, b"x")}
    fields = {"name": "out", "dockerfile": "FROM scratch\n"}
    answer = _post(server, fields, files)
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]


def test_a_context_with_a_bad_tar_is_refused(client: Client, server: Server) -> None:
    for data, told in (
        (tar_of({"../../etc/x": b"x"}), "cannot be unpacked"),
        (b"no tar at all" * 100, "cannot be unpacked"),
    ):
        fields = {"name": "out", "dockerfile": "FROM scratch\n", "context_format": "tar"}
        answer = _post(server, fields, {"context": ("context.tar", data)})
        assert answer.status_code == 202
        assert told in (failed(client, TemplateBuild.from_dict(answer.json())).error or "")


def test_a_build_is_cancelled_or_runs_out_of_time(client: Client, context: Path) -> None:
    text = "FROM scratch\nADD rootfs.tar /\nRUN sleep 1000\n"
    begun = client.templates.build_from_dockerfile("slow", text, context_dir=str(context), size_mb=SIZE_MB)
    for line in client.templates.build_logs(begun.id):
        if "sleep 1000" in line:
            break
    ended = client.templates.cancel_build(begun.id)
    assert (ended.status, ended.code) == ("failed", "build.cancelled")
    assert client.templates.cancel_build(begun.id) == ended
    begun = client.templates.build_from_dockerfile(
        "slow", text, context_dir=str(context), size_mb=SIZE_MB, timeout_seconds=15
    )
    assert failed(client, begun).code == "build.timeout"


def _post(server: Server, fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> httpx2.Response:
    address = f"{server.url}/v1/templates/build"
    headers = {"authorization": f"Bearer {server.token}"}
    return httpx2.post(address, data=fields, files=files, headers=headers, timeout=30)
