"""`pandastack.templates`: the templates of the default client's server."""

from __future__ import annotations

from collections.abc import Sequence

from pandastack.client import Template, TemplatesAPI, get_default_client

__all__ = ["Template", "TemplatesAPI", "get", "list"]


def list() -> Sequence[Template]:  # the official SDK's public name
    """Every template that the key may use."""
    return get_default_client().templates.list()


def get(name: str) -> Template:
    """One template; NotFoundError when there is none of this name."""
    return get_default_client().templates.get(name)
