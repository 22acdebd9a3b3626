"""A whole host without virtual machines, for tests: the composition root of the process driver."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pandastack.config import HostConfig
from pandastack.host.agent import ensure_agent
from pandastack.host.app import LocalHost, host_of
from pandastack.host.packages import Progress
from pandastack.host.paths import Cache
from pandastack.host.shelf import FIRST
from pandastack.host.templates import BareShelf
from pandastack.host.tenancy import demand
from pandastack.host.vm import Sources
from pandastack.testing.process_driver import ProcessDriver


@asynccontextmanager
async def open_process_host(config: HostConfig, progress: Progress) -> AsyncIterator[LocalHost]:
    """As `host.app.open_host`, each machine a local process. NotSupported without `insecure_no_isolation`."""
    progress("compiling the guest agent", None)
    agent = await ensure_agent(Cache(config.cache_dir))
    driver = ProcessDriver(agent, insecure_no_isolation=config.insecure_no_isolation)
    demand(config, driver.isolation, driver.degraded)
    shelf = BareShelf(FIRST, config.state_dir)
    sources = Sources(entropy=os.urandom, wall_ns=time.time_ns)
    async with host_of(driver, shelf, config.state_dir, sources, config.archive_keys) as host:
        yield host
