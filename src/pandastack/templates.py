"""`pandastack.templates`: the templates of the default client's server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from pandastack.client import Template, TemplateBuild, TemplateComparison, TemplatesAPI, get_default_client
from pandastack.client._builds import BuildOptions, VerifyOptions

__all__ = [
    "Template",
    "TemplateBuild",
    "TemplatesAPI",
    "build",
    "build_from_dockerfile",
    "build_logs",
    "delete",
    "get",
    "list",
    "register",
    "verify",
    "wait_for_build",
]


def list() -> Sequence[Template]:  # the official SDK's public name
    """Every template that the key may use."""
    return get_default_client().templates.list()


def get(name: str) -> Template:
    """One template; NotFoundError when there is none of this name."""
    return get_default_client().templates.get(name)


def delete(name: str) -> None:
    """Delete one of the workspace's own."""
    get_default_client().templates.delete(name)


def build(
    name: str,
    dockerfile_path: str | None = None,
    rootfs_tar: str | None = None,
    **options: Unpack[BuildOptions],
) -> TemplateBuild:
    """Build a template and wait until it is there; see `TemplatesAPI.build`."""
    return get_default_client().templates.build(name, dockerfile_path, rootfs_tar, **options)


def register(name: str, image_ref: str, **options: Unpack[BuildOptions]) -> TemplateBuild:
    """Begin to build a template of an OCI image."""
    return get_default_client().templates.register(name, image_ref, **options)


def build_from_dockerfile(
    name: str, dockerfile: str, *, context_dir: str | None = None, **options: Unpack[BuildOptions]
) -> TemplateBuild:
    """Begin to build a template of a Dockerfile: its path or its text."""
    templates = get_default_client().templates
    return templates.build_from_dockerfile(name, dockerfile, context_dir=context_dir, **options)


def verify(name: str, **options: Unpack[VerifyOptions]) -> TemplateComparison:
    """Build a version again of the same inputs, and tell what differs."""
    return get_default_client().templates.verify(name, **options)


def build_logs(build_id: str, *, follow: bool = True) -> Iterator[str]:
    """What a build has said line by line, and with `follow` says until it ends."""
    return get_default_client().templates.build_logs(build_id, follow=follow)


def wait_for_build(
    build_id: str, *, poll_interval: float = 1.0, timeout_seconds: float = 1800.0
) -> TemplateBuild:
    """The build when it has ended well. TemplateBuildError when it failed."""
    templates = get_default_client().templates
    return templates.wait_for_build(build_id, poll_interval=poll_interval, timeout_seconds=timeout_seconds)
