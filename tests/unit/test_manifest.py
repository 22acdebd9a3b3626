"""Templates' manifests: read strictly, inherited along the chain, digested with their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pandastack.errors import InvalidRequest, TemplateNotFound
from pandastack.host.agent import find_images_dir
from pandastack.host.manifest import load_recipe, read_manifest, template_names
from pandastack.host.pypi import listed

ROOT = """
label = "Root"
description = "the first"
suite = "bookworm"
tools = ["sh"]
packages = ["python3"]
steps = ["true"]
cpu = 2
memory_mb = 256
disk_mb = 1024
warm = ["one"]

[env]
A = "1"
B = "1"
"""

CHILD = """
label = "Child"
description = "the second"
base = "root"
tools = ["numpy"]
packages = ["python3-numpy"]
leave_out = ["/usr/include/boost/*"]
steps = ["false"]
memory_mb = 512
workdir = "/workspace"
start = "serve"
warm = ["two"]

[env]
B = "2"

[ready]
command = "ask"
timeout_seconds = 5
"""


def write(images: Path, name: str, text: str) -> Path:
    folder = images / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.toml").write_text(text)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two templates, one the base of the other."""
    write(tmp_path, "root", ROOT)
    write(tmp_path, "child", CHILD)
    return tmp_path


def test_lists_follow_the_bases_and_values_replace_them(images: Path) -> None:
    recipe = load_recipe("child", images)
    manifest = recipe.manifest
    assert manifest.packages == ("python3", "python3-numpy")
    assert manifest.leave_out == ("/usr/include/boost/*",)
    assert manifest.steps == ("true", "false")
    assert manifest.tools == ("sh", "numpy")
    assert manifest.warm == ("one", "two")
    assert manifest.env == {"A": "1", "B": "2"}
    assert (recipe.cpu, recipe.memory_mb, recipe.disk_mb) == (2, 512, 1024)
    assert (recipe.suite, manifest.workdir, manifest.start) == ("bookworm", "/workspace", "serve")
    assert manifest.ready is not None
    assert manifest.ready.timeout_seconds == 5


def test_sizes_have_defaults(tmp_path: Path) -> None:
    write(tmp_path, "bare", 'label = "Bare"\ndescription = ""\nsuite = "bookworm"')
    recipe = load_recipe("bare", tmp_path)
    assert (recipe.cpu, recipe.memory_mb, recipe.disk_mb) == (1, 512, 4096)
    assert recipe.manifest.workdir is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('pakages = ["x"]', "Did you mean `packages`"),
        ('colour = "red"', "there is no field `colour`"),
        ('memory_mb = "much"', "memory_mb"),
        ("memory_mb = 1", "memory_mb"),
        ("cpu = 0", "cpu"),
        ('packages = ["rm -rf"]', "packages"),
        ('workdir = "relative"', "workdir"),
        ('base = "root"', "either a `base` or, without one, a `suite`"),
        ("steps = [", "no TOML"),
        ("[ready]\nmore = 1", "ready"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_field_that_is_wrong(
    tmp_path: Path, line: str, said: str
) -> None:
    head = 'label = "X"\ndescription = ""\nsuite = "bookworm"\n'
    path = write(tmp_path, "wrong", head + line) / "template.toml"
    with pytest.raises(InvalidRequest) as raised:
        read_manifest(path)
    assert said in raised.value.message
    assert str(path) in raised.value.message


def test_a_template_that_is_not_there_is_named_with_those_that_are(images: Path) -> None:
    with pytest.raises(TemplateNotFound, match=r"'nope'.*child, root"):
        load_recipe("nope", images)


@pytest.mark.parametrize("name", ["../root", "", "Root", ".", "a/b"])
def test_no_name_leaves_the_folder(images: Path, name: str) -> None:
    with pytest.raises(TemplateNotFound):
        load_recipe(name, images)


def test_a_base_that_is_not_there(images: Path) -> None:
    write(images, "orphan", CHILD.replace('base = "root"', 'base = "gone"'))
    with pytest.raises(TemplateNotFound, match="'gone'"):
        load_recipe("orphan", images)


def test_bases_in_a_circle(images: Path) -> None:
    write(images, "root", CHILD.replace('base = "root"', 'base = "child"'))
    with pytest.raises(InvalidRequest, match="circle"):
        load_recipe("child", images)


def test_files_are_laid_the_bases_first(images: Path) -> None:
    for name in ("root", "child"):
        (images / name / "files").mkdir()
    assert load_recipe("child", images).layers == (images / "root" / "files", images / "child" / "files")


def test_the_digest_knows_every_input(images: Path) -> None:
    def digest() -> str:
        return load_recipe("child", images).digest

    seen = {digest()}
    file = images / "root" / "files" / "etc" / "motd"
    file.parent.mkdir(parents=True)
    file.write_text("hello")
    seen.add(digest())
    file.write_text("hullo")
    seen.add(digest())
    file.chmod(0o755)
    seen.add(digest())
    (file.parent / "link").symlink_to("motd")
    seen.add(digest())
    write(images, "root", ROOT.replace("cpu = 2", "cpu = 1"))
    seen.add(digest())
    write(images, "child", CHILD.replace('"serve"', '"serve more"'))
    seen.add(digest())
    assert len(seen) == 7


def test_the_digest_knows_nothing_else(images: Path) -> None:
    file = images / "child" / "files" / "etc" / "motd"
    file.parent.mkdir(parents=True)
    file.write_text("hello")
    before = load_recipe("child", images).digest
    os.utime(file, (0, 0))
    file.chmod(0o600)
    write(images, "child", CHILD + "\n# a remark\n")
    write(images, "other", ROOT)
    assert load_recipe("child", images).digest == before


def test_the_templates_of_the_product() -> None:
    images = find_images_dir()
    assert {"base", "code-interpreter"} <= set(template_names(images))
    base, interpreter = load_recipe("base", images), load_recipe("code-interpreter", images)
    assert {"python3", "nodejs", "git", "curl"} <= set(base.manifest.packages)
    assert {"python3-numpy", "python3-pandas", "python3-matplotlib"} <= set(interpreter.manifest.packages)
    assert set(base.manifest.packages) <= set(interpreter.manifest.packages)
    assert interpreter.memory_mb > base.memory_mb


def test_trees_of_npm_are_part_of_the_recipe(tmp_path: Path) -> None:
    """With their locks: another one is another image."""
    folder = write(tmp_path, "root", ROOT)
    write(tmp_path, "child", CHILD.replace("[env]", '[npm]\ntools = "/usr/local/lib"\n\n[env]'))
    with pytest.raises(InvalidRequest, match=r"names .*package\.json, which is not there"):
        load_recipe("child", tmp_path)
    tools = tmp_path / "child" / "tools"
    tools.mkdir()
    (tools / "package.json").write_text("{}")
    (tools / "package-lock.json").write_text("{}")
    recipe = load_recipe("child", tmp_path)
    assert [(each.folder, each.target) for each in recipe.npm] == [(tools, "/usr/local/lib")]
    (tools / "package-lock.json").write_text('{"lockfileVersion": 3}')
    assert load_recipe("child", tmp_path).digest != recipe.digest
    assert load_recipe("root", tmp_path).npm == ()
    assert folder.is_dir()


def test_wheels_are_pinned_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "wheels.txt"
    digest = "0" * 64
    file.write_text(f"# why\nuv==0.13.9 --hash=sha256:{digest}\nb==1 \\\n  --hash=sha256:{digest}\n")
    assert listed(file) == ["pypi:b 1", "pypi:uv 0.13.9"]
    for line in (
        "uv",
        "uv==0.13.9",
        f"uv>=1 --hash=sha256:{digest}",
        f"--index-url=x --hash=sha256:{digest}",
    ):
        file.write_text(line)
        with pytest.raises(InvalidRequest, match="is not NAME==VERSION"):
            listed(file)
