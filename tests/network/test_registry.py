"""Builds of images in a real registry, on a public address of a network of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pandastack import Client, TemplateBuildError
from pandastack.client._builds import BuildOptions
from pandastack.host.network import namespace
from pandastack.host.packages import Archive
from pandastack.host.paths import Cache
from pandastack.host.sources import debian_sources
from pandastack.testing.real import CACHE
from pandastack.testing.server import running_server
from tests.network.world import INTERNET, ROUTER, SERVE, SERVERS, lay, name_server, program
from tests.wire.images import packed, root_tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.vm,
    pytest.mark.timeout(300, func_only=True),
]

PLAIN, CLOSED, SILENT = f"{SERVERS[0]}:5000", f"{SERVERS[1]}:443", f"{SERVERS[2]}:5000"
ALLOWED, OTHER = "files.example", "other.example"
SIZE_MB = 96
WHO, WORD = "panda", "open sesame"
HTPASSWD = f"{WHO}:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
"""The word above, by bcrypt."""
KIND = "application/vnd.oci.image"
SILENCE = """
import socket, time
listener = socket.create_server((%r, 5000))
print("ready")
held = []
while True:
    held.append(listener.accept())
"""
"""Takes connections and says nothing."""


@pytest.fixture(scope="module")
def registry_program() -> Path:
    """Debian's docker-registry, unpacked and not installed."""
    folder = CACHE / "tests" / "docker-registry"
    binary = folder / "usr" / "bin" / "docker-registry"
    if not binary.exists():
        asyncio.run(_unpacked(folder))
    return binary


async def _unpacked(folder: Path) -> None:
    cache = Cache(CACHE)
    sources = await debian_sources("bookworm", mirror=None)
    folder.mkdir(parents=True, exist_ok=True)
    archive = Archive(cache.packages("guest-bookworm"), cache.downloads, sources)
    await archive.update()
    package = await archive.locate("docker-registry")
    await archive.download([package], lambda line, fraction: None)
    subprocess.run(["dpkg-deb", "-x", archive.path(package), folder], check=True, timeout=60)


@contextmanager
def registry(binary: Path, home: Path, address: str, **more: object) -> Iterator[None]:
    """A registry that answers at this address of the internet."""
    home.mkdir(parents=True)
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(home / "blobs")}},
        "http": {"addr": address, **({"tls": more["tls"]} if "tls" in more else {})},
        **({"auth": more["auth"]} if "auth" in more else {}),
    }
    (home / "config.json").write_text(json.dumps(settings))  # YAML is a superset of it
    command = [
        "nsenter",
        f"--net={namespace.path_of(INTERNET)}",
        str(binary),
        "serve",
        str(home / "config.json"),
    ]
    with (home / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.kill()


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry of a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(made.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "ca.pem", folder / "key.pem"


def push(
    base: str, name: str, layer: bytes, *, verify: ssl.SSLContext | bool = True, auth: bool = False
) -> str:
    """Put an image of one layer into a registry, as its API says; the digest of its manifest."""
    with httpx2.Client(base_url=base, verify=verify, auth=(WHO, WORD) if auth else None, timeout=30) as http:
        _until_it_answers(http)
        said = {"architecture": "amd64", "os": "linux", "config": {"Env": ["FROM_REGISTRY=yes", "PATH=/bin"]}}
        config = json.dumps({**said, "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}}).encode()
        for blob in (config, layer):
            place = http.post(f"/v2/{name}/blobs/uploads/").headers["location"]
            put = http.put(f"{place}&digest={_digest(blob)}", content=blob)
            assert put.status_code == 201, put.text
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": _described(config, f"{KIND}.config.v1+json"),
            "layers": [_described(layer, f"{KIND}.layer.v1.tar")],
        }
        body = json.dumps(manifest).encode()
        headers = {"content-type": f"{KIND}.manifest.v1+json"}
        assert http.put(f"/v2/{name}/manifests/1", content=body, headers=headers).status_code == 201
        return _digest(body)


def _until_it_answers(http: httpx2.Client) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            http.get("/v2/")
        except httpx2.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _described(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


class Scene:
    """A server, registries that it reaches, and what is in them."""

    def __init__(self, client: Client, authority: str, digest: str) -> None:
        self.client = client
        self.authority = authority
        self.digest = digest


@pytest.fixture(scope="module")
def scene(registry_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("registry")
    layer = packed(root_tree(home / "root"))
    authority, key = certificate(home / "tls", SERVERS[1])
    (home / "htpasswd").write_text(HTPASSWD)
    with ExitStack() as stack:
        stack.enter_context(lay())
        stack.enter_context(registry(registry_program, home / "plain", PLAIN))
        tls = {"certificate": str(authority), "key": str(key)}
        auth = {"htpasswd": {"realm": "test", "path": str(home / "htpasswd")}}
        stack.enter_context(registry(registry_program, home / "closed", CLOSED, tls=tls, auth=auth))
        stack.enter_context(program(SILENCE % SERVERS[2]))
        digest = push(f"http://{PLAIN}", "team/tool", layer)
        trust = ssl.create_default_context(cafile=str(authority))
        push(f"https://{CLOSED}", "team/closed", layer, verify=trust, auth=True)
        stack.enter_context(name_server({ALLOWED: SERVERS[0], OTHER: SERVERS[1]}))
        stack.enter_context(program(SERVE))
        config = home / "config.toml"
        settings = (
            f'[host]\nname_servers = ["{ROUTER}:53"]\nrehearse = false\nready_templates = ["builder"]\n'
        )
        config.write_text(settings)
        server = stack.enter_context(running_server(home, "--config", str(config)))
        client = stack.enter_context(Client(server.url, server.token))
        yield Scene(client, authority.read_text(), digest)


def failure(scene: Scene, image_ref: str, **options: object) -> str:
    """What a build of this image fails with."""
    told: BuildOptions = {"size_mb": SIZE_MB, **options}  # type: ignore[typeddict-item]  # fields of it
    begun = scene.client.templates.register("bad", image_ref, **told)
    with pytest.raises(TemplateBuildError) as caught:
        scene.client.templates.wait_for_build(begun.id)
    return str(caught.value)


def test_an_image_behind_a_login_and_a_certificate(scene: Scene) -> None:
    templates = scene.client.templates
    begun = templates.register(
        "closed",
        f"{CLOSED}/team/closed:1",
        size_mb=SIZE_MB,
        registry_username=WHO,
        registry_password=WORD,
        registry_ca=scene.authority,
    )
    lines = [*templates.build_logs(begun.id)]
    assert templates.wait_for_build(begun.id).is_done
    assert not any(WORD in line for line in lines)
    with scene.client.sandboxes.create("closed") as sandbox:
        assert sandbox.exec("echo $FROM_REGISTRY").stdout == "yes\n"
        assert sandbox.exec("ls /run/build /build 2>&1 | head -1").exit_code == 0
    templates.delete("closed")


def test_a_dockerfile_on_images_is_verified_on_the_same(scene: Scene, tmp_path: Path) -> None:
    templates = scene.client.templates
    text = f"ARG TAG=1\nFROM {PLAIN}/team/tool@{scene.digest} AS first\nRUN echo more > /more\n"
    text += f"FROM {PLAIN}/team/tool:$TAG\nCOPY --from=first /more /more\n"
    begun = templates.build_from_dockerfile("more", text, size_mb=SIZE_MB, insecure=True)
    assert templates.wait_for_build(begun.id).is_done
    with scene.client.sandboxes.create("more") as sandbox:
        assert sandbox.exec("cat /more; echo $FROM_REGISTRY").stdout == "more\nyes\n"
    push(f"http://{PLAIN}", "team/tool", packed(root_tree(tmp_path, ("sh",))))
    assert templates.verify("more").result == "identical", "another image has the tag now"
    templates.delete("more")


@pytest.mark.parametrize(
    ("image", "options", "told"),
    [
        ("closed", {"registry_username": WHO, "registry_password": "wrong"}, "authentication required"),
        ("closed", {}, "authentication required"),
        ("unsigned", {"registry_username": WHO, "registry_password": WORD}, "certificate signed by unknown"),
        ("missing", {"insecure": True}, "manifest unknown"),
        ("digest", {"insecure": True}, "manifest unknown"),
        ("tool", {}, "server gave HTTP response to HTTPS client"),
        ("tool", {"insecure": True, "egress": {"internet": "off"}}, f"dial tcp {PLAIN}"),
        ("refused", {"insecure": True}, "refused"),
        ("silent", {"insecure": True, "timeout_seconds": 12}, "longer than 12 s"),
    ],
)
def test_what_a_registry_refuses_is_told(
    scene: Scene, image: str, options: dict[str, object], told: str
) -> None:
    nothing = "sha256:" + "0" * 64
    references: dict[str, Callable[[], str]] = {
        "closed": lambda: f"{CLOSED}/team/closed:1",
        "unsigned": lambda: f"{CLOSED}/team/closed:1",
        "missing": lambda: f"{PLAIN}/team/missing:1",
        "digest": lambda: f"{PLAIN}/team/tool@{nothing}",
        "tool": lambda: f"{PLAIN}/team/tool:1",
        "refused": lambda: f"{SERVERS[0]}:5999/team/tool:1",
        "silent": lambda: f"{SILENT}/team/tool:1",
    }
    more = {"registry_ca": scene.authority} if image == "closed" else {}
    assert told in failure(scene, references[image](), **options, **more)


def test_a_build_reaches_what_its_policy_names_and_nothing_else(scene: Scene) -> None:
    templates = scene.client.templates
    text = f"FROM scratch\nADD http://{ALLOWED}/a /a\nADD http://{OTHER}/b /b\n"
    begun = templates.build_from_dockerfile("bad", text, size_mb=SIZE_MB, egress={"allow_domains": [ALLOWED]})
    lines = [*templates.build_logs(begun.id)]
    with pytest.raises(TemplateBuildError, match="line 3 of the Dockerfile"):
        templates.wait_for_build(begun.id)
    refused = [line for line in lines if line.startswith("refused: ")]
    assert refused and all(OTHER in line and "no allow list names it" in line for line in refused), lines
