"""Log lines, the context bound to them, and every metric of the program, each declared once.

Nothing here is global but the set-up of logging itself, which a composition root does once; metrics live in a
registry that the root makes, so two servers in one process do not mix.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pandastack.config import LogFormat

Logger = structlog.typing.FilteringBoundLogger

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BOOT = (0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 15, 60)


def set_up_logging(log_format: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send events to `stream` (standard error when None), one line each; library warnings join them."""
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=out, level=max(number, logging.WARNING), format="%(name)s: %(message)s")


def logger(name: str) -> Logger:
    """A logger whose lines carry what `bind` has bound in this task. Events are named `noun.verb`."""
    made: Logger = structlog.get_logger(noun=name)
    return made


class Metrics:
    """What a control plane counts. Durations are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pandastack_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "pandastack_http_request_duration_seconds",
            "Time from request to the end of its answer.",
            ["method", "route"],
            buckets=LATENCY,
            registry=self.registry,
        )
        self.sandboxes = Gauge(
            "pandastack_sandboxes", "Sandboxes that exist, by state.", ["state"], registry=self.registry
        )
        self.creates = Counter(
            "pandastack_sandbox_creates",
            "Creates finished.",
            ["result", "boot_mode"],
            registry=self.registry,
        )
        self.boot = Histogram(
            "pandastack_sandbox_boot_duration_seconds",
            "Time that the host took to start a machine.",
            ["boot_mode"],
            buckets=BOOT,
            registry=self.registry,
        )
        self.wakes = Counter(
            "pandastack_sandbox_wakes",
            "Hibernated sandboxes that went on.",
            ["boot_mode"],
            registry=self.registry,
        )
        self.queued = Gauge(
            "pandastack_creates_waiting", "Creates that wait for their turn.", registry=self.registry
        )
        self.deaths = Counter(
            "pandastack_sandbox_deaths", "Machines that ended by themselves.", registry=self.registry
        )
        self.reaped = Counter(
            "pandastack_sandbox_reaped",
            "Sandboxes deleted or hibernated for idling or living too long.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of it in the Prometheus text format."""
        return generate_latest(self.registry)
