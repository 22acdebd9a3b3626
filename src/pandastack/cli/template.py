"""`pandastack template`: what sandboxes are made from, and templates of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack.cli import devcontainer
from pandastack.cli.progress import Steps, reporting
from pandastack.cli.session import Session, age, console, pairs, session_of
from pandastack.errors import InvalidRequest

if TYPE_CHECKING:
    from pandastack import Template, TemplateBuild
    from pandastack.client import TemplatesAPI
    from pandastack.client._builds import BuildOptions

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, prepare and build templates.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
BuildId = Annotated[str, typer.Argument(metavar="BUILD")]
STEP = "— "
"""How lines of a build begin that tell its next step."""


@app.command("ls")
def list_all(ctx: typer.Context) -> None:
    """List the templates of the server and your own."""
    session = session_of(ctx)
    found = session.client().templates.list()
    _table(session, found)


@app.command()
def versions(ctx: typer.Context, name: Name) -> None:
    """List the versions of a template of your own."""
    session = session_of(ctx)
    _table(session, session.client().templates.versions(name))


@app.command()
def bake(ctx: typer.Context, name: Name) -> None:
    """Make sure that the server restores a template instead of booting it."""
    session = session_of(ctx)
    with console(stderr=True).status(f"baking {name}: it boots once, for real"):
        baked = session.client().templates.bake(name)
    session.show(baked, f"{name} is baked")


@app.command()
def build(  # noqa: PLR0913  # each is an option of the command
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder with a Dockerfile, a root file system's .tar, or an image."
        ),
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="What the template is to be called.")],
    dockerfile: Annotated[
        Path | None, typer.Option("--file", "-f", help="The Dockerfile; else that of the folder.")
    ] = None,
    size: Annotated[int, typer.Option("--size", metavar="MIB", help="The root disk.")] = 1024,
    cpu: Annotated[int, typer.Option("--cpu")] = 1,
    memory: Annotated[int, typer.Option("--memory", metavar="MIB")] = 512,
    start: Annotated[str | None, typer.Option("--start", help="What runs on in every sandbox.")] = None,
    ready: Annotated[
        str | None, typer.Option("--ready", help="What must succeed before the snapshot is taken.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="An ARG; again for more.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="The stage to stop at.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="A further name of this version.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a further version of one that is there.")
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Make every layer anew.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take the registry by HTTP, or an unsigned certificate.")
    ] = False,
) -> None:
    """Build a template of a Dockerfile, an OCI image or a root file system, and watch it."""
    session = session_of(ctx)
    options: BuildOptions = {"size_mb": size, "cpu": cpu, "memory_mb": memory}
    options |= {"replace": replace, "no_cache": no_cache, "insecure": insecure}
    options |= {"build_args": pairs(arg or [], "--build-arg")} if arg else {}
    more = {"start": start, "ready": ready, "target": target, "tag": tag}
    options |= {key: value for key, value in more.items() if value is not None}  # type: ignore[typeddict-item]  # keys of it
    begun = _begun(session.client().templates, source, name, dockerfile, options)
    _watch(session, begun)


@app.command()
def verify(ctx: typer.Context, name: Name) -> None:
    """Build NAME or NAME:VERSION again of the same inputs, and tell what differs; 1 when something does."""
    session = session_of(ctx)
    done = _followed(session, session.client().templates.begin_verify(name))
    found = done.comparison
    session.show(done, found.result if found else "")
    if found is None or not found.is_reproduced:
        raise typer.Exit(1)


@app.command()
def sbom(ctx: typer.Context, name: Name) -> None:
    """Print what is installed in a template of your own, as SPDX 2.3 (JSON)."""
    typer.echo(json.dumps(session_of(ctx).client().templates.sbom(name), indent=2))


@app.command()
def builds(ctx: typer.Context) -> None:
    """List builds, the newest first."""
    session = session_of(ctx)
    found = session.client().templates.builds()
    rows = [
        (
            each.id,
            each.name,
            each.status,
            age(each.started_at),
            each.template or each.verifies or each.step or "",
            each.code or "",
        )
        for each in found
    ]
    session.table(found, ("ID", "NAME", "STATUS", "BEGAN", "WHAT", "ERROR"), rows)


@app.command()
def logs(
    ctx: typer.Context,
    build_id: BuildId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
) -> None:
    """Print what a build has said."""
    for line in session_of(ctx).client().templates.build_logs(build_id, follow=follow):
        typer.echo(line)


@app.command()
def cancel(ctx: typer.Context, build_id: BuildId) -> None:
    """End a build."""
    session = session_of(ctx)
    ended = session.client().templates.cancel_build(build_id)
    session.show(ended, ended.status)


@app.command()
def tag(
    ctx: typer.Context,
    name: Name,
    tag_name: Annotated[str, typer.Argument(metavar="TAG", help="`latest` is what NAME alone means.")],
    version: Annotated[int, typer.Argument(metavar="VERSION")],
) -> None:
    """Have NAME:TAG be a version, for example an older one."""
    session = session_of(ctx)
    told = session.client().templates.tag(name, tag_name, version)
    session.show(told, f"{name}:{tag_name} is version {told.version}")


@app.command("rm")
def remove(ctx: typer.Context, name: Name) -> None:
    """Delete a template of your own, or just NAME:VERSION."""
    session_of(ctx).client().templates.delete(name)


def _begun(
    templates: TemplatesAPI, source: str, name: str, dockerfile: Path | None, options: BuildOptions
) -> TemplateBuild:
    path = Path(source)
    if path.is_dir():
        text = _dockerfile(path, dockerfile, options)
        return templates.build_from_dockerfile(name, text, context_dir=source, **options)
    if path.is_file():
        return templates.build_from_rootfs(name, source, **options)
    return templates.register(name, source, **options)


def _dockerfile(folder: Path, dockerfile: Path | None, options: BuildOptions) -> str:
    """The text that a folder is built by: of the file that is named, of its Dockerfile, or of its
    devcontainer.json, which has its say in the options too.
    """
    path = dockerfile or folder / "Dockerfile"
    settings = devcontainer.find(folder) if dockerfile is None and not path.is_file() else None
    if settings is None:
        if not path.is_file():
            raise InvalidRequest(f"There is no {path}, and no devcontainer.json in {folder}.")
        return path.read_text()
    told = devcontainer.read(settings, folder)
    options["build_args"] = {**told.build_args, **options.get("build_args", {})}
    if told.target:
        options.setdefault("target", told.target)
    if told.ports:
        typer.echo(f"It forwards ports {told.ports}: `pandastack forward` does that for a sandbox.", err=True)
    return told.dockerfile


def _watch(session: Session, begun: TemplateBuild) -> None:
    """Show how it goes until it ends, and what came of it."""
    done = _followed(session, begun)
    session.show(done, done.template or "")


def _followed(session: Session, begun: TemplateBuild) -> TemplateBuild:
    """Show how it goes until it ends; Ctrl-C leaves it going."""
    templates, stderr = session.client().templates, console(stderr=True)
    try:
        with reporting(stderr) as steps:
            for line in templates.build_logs(begun.id):
                _show(line, steps)
        steps.tell(stderr)
    except KeyboardInterrupt:
        typer.echo(f"It goes on: `pandastack template logs -f {begun.id}` follows it.", err=True)
        raise
    return templates.wait_for_build(begun.id)


def _show(line: str, steps: Steps) -> None:
    if line.startswith(STEP):
        steps(line.removeprefix(STEP), None)
    else:
        typer.echo(line, err=True)


def _table(session: Session, found: Sequence[Template]) -> None:
    rows = [
        (
            each.name if each.version is None else f"{each.name}:{each.version}",
            str(each.cpu),
            f"{each.memory_mb} MiB",
            f"{(each.size_bytes or 0) / 1e6:.0f} MB",
            "yes" if each.baked else "no",
            ", ".join(each.tags or []) or each.description or "",
        )
        for each in found
    ]
    session.table(found, ("NAME", "CPU", "MEMORY", "IMAGE", "BAKED", "WHAT"), rows)
