"""What the handlers are given: every service, and the typed call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pandastack.endpoint import Call
from pandastack.model.account import Limits
from pandastack.services.accounts import Accounts
from pandastack.services.backups import Backups
from pandastack.services.births import Births
from pandastack.services.browsers import Browsers
from pandastack.services.builds import Builds
from pandastack.services.certificates import Certificates
from pandastack.services.commands import Commands
from pandastack.services.contents import Contents
from pandastack.services.diffs import Diffs
from pandastack.services.endings import Endings
from pandastack.services.events import Events
from pandastack.services.exits import Exits
from pandastack.services.files import Files
from pandastack.services.forks import Forks
from pandastack.services.glimpses import Glimpses
from pandastack.services.inputs import InputFiles
from pandastack.services.kernels import Kernels
from pandastack.services.language_servers import LanguageServers
from pandastack.services.lifecycles import Lifecycles
from pandastack.services.lineages import Lineages
from pandastack.services.placement import Placement
from pandastack.services.ports import Ports
from pandastack.services.previews import Previews
from pandastack.services.rollbacks import Rollbacks
from pandastack.services.sandboxes import Sandboxes
from pandastack.services.secrets import Secrets
from pandastack.services.sleep import Sleep
from pandastack.services.snapshots import Snapshots
from pandastack.services.templates import Templates
from pandastack.services.terminals import Terminals
from pandastack.services.timelines import Timelines
from pandastack.services.trail import Trail
from pandastack.services.transfers import Transfers
from pandastack.services.vitals import Vitals
from pandastack.services.volumes import Volumes
from pandastack.telemetry import Metrics

Body = TypeVar("Body")
Query = TypeVar("Query")


@dataclass(frozen=True, slots=True)
class Services:
    """The control plane's verbs, by noun."""

    sandboxes: Sandboxes
    births: Births
    endings: Endings
    sleep: Sleep
    lifecycles: Lifecycles
    exits: Exits
    secrets: Secrets
    lineages: Lineages
    snapshots: Snapshots
    transfers: Transfers
    forks: Forks
    rollbacks: Rollbacks
    timelines: Timelines
    diffs: Diffs
    commands: Commands
    terminals: Terminals
    kernels: Kernels
    language_servers: LanguageServers
    files: Files
    events: Events
    vitals: Vitals
    volumes: Volumes
    backups: Backups
    glimpses: Glimpses
    contents: Contents
    templates: Templates
    builds: Builds
    inputs: InputFiles
    accounts: Accounts
    trail: Trail
    ports: Ports
    previews: Previews
    browsers: Browsers
    certificates: Certificates
    placement: Placement
    metrics: Metrics
    limits: Limits
    sizes: Mapping[str, int]
    version: str
    beat_seconds: float
    preview_base: str | None
    """Where links to ports begin; None for where the request came to."""


Api = Call[Services, Body, Query]
