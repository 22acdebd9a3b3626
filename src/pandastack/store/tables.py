"""The tables as SQLAlchemy sees them; `migrations/` makes them, and a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime, kept as microseconds since 1970: exact, ordered, the same in every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else EPOCH + value * MICROSECOND


class Json(TypeDecorator[object]):
    """Any JSON value, kept as text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str | None:
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> object:
        return None if value is None else msgspec.json.decode(value)


class Flag(TypeDecorator[bool]):
    """A boolean, kept as 0 or 1."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: bool | None, dialect: sa.Dialect) -> int:
        return int(bool(value))

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> bool:
        return bool(value)


metadata = sa.MetaData()


def _text(name: str, *, nullable: bool = False, primary_key: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=nullable, primary_key=primary_key)


def _number(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _bytes(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _seconds(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Float, nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, Moment, nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, Json, nullable=nullable)


workspaces = sa.Table(
    "workspaces", metadata,
    _text("id", primary_key=True), _number("sandboxes"), _number("vcpus"), _number("memory_mb"),
)  # fmt: skip

tokens = sa.Table(
    "tokens", metadata,
    _text("digest", primary_key=True), _text("workspace"), _text("prefix"), _text("label"), _text("scope"),
    _moment("created_at"), _moment("expires_at", nullable=True), _moment("last_used_at", nullable=True),
    sa.Index("tokens_by_prefix", "workspace", "prefix", unique=True),
)  # fmt: skip

sandboxes = sa.Table(
    "sandboxes", metadata,
    _text("id", primary_key=True), _text("workspace"), _text("state"), _text("template"), _text("host"),
    _text("isolation"), _number("cpu"), _number("memory_mb"), _json("metadata"),
    sa.Column("persistent", Flag, nullable=False), _number("ttl_seconds"), _number("boot_ms"),
    _text("boot_mode"), _json("phases_ms"), _text("guest_ip"), _text("cause", nullable=True),
    _moment("created_at"), _moment("active_at"), _moment("ended_at", nullable=True),
    _text("from_snapshot", nullable=True), _text("parent_id", nullable=True), _text("tree_id", nullable=True),
    _text("snapshot_id", nullable=True), _text("on_timeout"), _number("idle_timeout_seconds", nullable=True),
    _number("lifetime_seconds", nullable=True), _seconds("used_seconds"),
    _moment("awake_since", nullable=True), _json("restore_proof", nullable=True),
    _text("checkpoints"), _number("keep_checkpoints"), _json("egress"), _json("degraded", nullable=True),
    _json("volumes"),
    sa.Index("sandboxes_by_state", "state", "workspace"), sa.Index("sandboxes_by_age", "created_at"),
    sa.Index("sandboxes_by_parent", "parent_id"), sa.Index("sandboxes_by_tree", "tree_id"),
)  # fmt: skip

snapshots = sa.Table(
    "snapshots", metadata,
    _text("id", primary_key=True), _text("sandbox_id"), _text("workspace"), _text("template"), _text("kind"),
    _text("state"), _number("cpu"), _number("memory_mb"), _text("host"), _text("isolation"), _text("name"),
    _text("comment"), _number("size_bytes"), _text("parent_id", nullable=True), _seconds("pause_ms"),
    _json("phases_ms"), _moment("created_at"), _number("step", nullable=True), _text("command"),
    _number("exit_code", nullable=True), _number("duration_ms", nullable=True),
    _json("egress", nullable=True),
    sa.Index("snapshots_by_sandbox", "sandbox_id", "kind"),
    sa.Index("snapshots_by_workspace", "workspace", "created_at"),
)  # fmt: skip

volumes = sa.Table(
    "volumes", metadata,
    _text("id", primary_key=True), _text("workspace"), _text("name"), _text("host"), _text("state"),
    _number("size_mb"), _number("size_bytes"), _number("generation"), _text("writer_id", nullable=True),
    sa.Column("frozen", Flag, nullable=False), _text("source", nullable=True), _moment("created_at"),
    sa.Index("volumes_by_name", "workspace", "name", unique=True),
)  # fmt: skip

attachments = sa.Table(
    "attachments", metadata,
    _text("volume_id", primary_key=True), _text("sandbox_id", primary_key=True), _text("path"),
    sa.Column("read_only", Flag, nullable=False), _moment("since"),
    sa.Index("attachments_by_sandbox", "sandbox_id"),
)  # fmt: skip

secrets = sa.Table(
    "secrets", metadata,
    _text("sandbox_id", primary_key=True), _text("name", primary_key=True), _text("workspace"),
    _json("hosts"), _json("headers"), _text("placeholder"),
    sa.Column("sealed", sa.LargeBinary, nullable=False), _moment("created_at"), _moment("changed_at"),
)  # fmt: skip

templates = sa.Table(
    "templates", metadata,
    _text("workspace", primary_key=True), _text("name", primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True), _text("host"), _number("cpu"), _number("memory_mb"),
    _number("disk_mb"), sa.Column("size_bytes", sa.BigInteger, nullable=False), _moment("created_at"),
    _text("build_id"), _text("form"), _text("source"), _text("content"), _json("config"),
    _text("start", nullable=True), _text("ready", nullable=True), _json("packages"),
    sa.Column("deleting", Flag, nullable=False),
)  # fmt: skip

template_inputs = sa.Table(
    "template_inputs", metadata,
    _text("workspace", primary_key=True), _text("name", primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True), _json("wish"), _json("bases"),
    _text("archive", nullable=True), sa.Column("archive_bytes", sa.BigInteger, nullable=False),
    _text("listing"), sa.Column("listing_bytes", sa.BigInteger, nullable=False),
)  # fmt: skip

template_tags = sa.Table(
    "template_tags", metadata,
    _text("workspace", primary_key=True), _text("name", primary_key=True), _text("tag", primary_key=True),
    _number("version"),
)  # fmt: skip

builds = sa.Table(
    "builds", metadata,
    _text("id", primary_key=True), _text("name"), _text("workspace"), _text("form"), _text("status"),
    _moment("created_at"), _number("size_mb"), _number("cpu"), _number("memory_mb"), _number("version"),
    _text("step"), _text("image_ref", nullable=True), _moment("started_at", nullable=True),
    _moment("ended_at", nullable=True), _text("error", nullable=True), _text("code", nullable=True),
    _text("template", nullable=True), sa.Column("bytes", sa.BigInteger), _text("verifies", nullable=True),
    _json("comparison", nullable=True), sa.Index("builds_by_workspace", "workspace", "created_at"),
)  # fmt: skip

build_lines = sa.Table(
    "build_lines", metadata,
    _text("build_id", primary_key=True), sa.Column("number", sa.Integer, primary_key=True), _text("text"),
)  # fmt: skip

backups = sa.Table(
    "backups", metadata,
    _text("id", primary_key=True), _text("volume"), _text("workspace"), _text("status"), _number("size_mb"),
    _moment("created_at"), _bytes("total_bytes"), _bytes("done_bytes"), _bytes("stored_bytes"),
    _text("digest"), _moment("ended_at", nullable=True), _moment("verified_at", nullable=True),
    _json("damaged"), _text("error", nullable=True), _text("code", nullable=True),
    sa.Index("backups_by_workspace", "workspace", "created_at"),
)  # fmt: skip

events = sa.Table(
    "events", metadata,
    sa.Column("id", sa.Integer, primary_key=True), _text("sandbox_id"), _moment("time"), _text("type"),
    _json("payload"), sa.Index("events_by_sandbox", "sandbox_id", "id"),
)  # fmt: skip

audit = sa.Table(
    "audit", metadata,
    sa.Column("id", sa.Integer, primary_key=True), _moment("ts"), _text("workspace"), _text("request_id"),
    _text("method"), _text("path"), _number("status"), _text("actor"), _json("meta"),
    sa.Index("audit_by_time", "workspace", "ts"),
)  # fmt: skip

idempotency = sa.Table(
    "idempotency", metadata,
    _text("workspace", primary_key=True), _text("key", primary_key=True), _text("fingerprint"),
    _text("made_id"), _moment("created_at"), sa.Index("idempotency_by_made", "made_id"),
)  # fmt: skip

books = sa.Table(
    "books", metadata,
    _text("sandbox_id", primary_key=True), _json("book"),
)  # fmt: skip

forks = sa.Table(
    "forks", metadata,
    _text("id", primary_key=True), _text("workspace"), _text("parent_id"), _text("snapshot_id"),
    _text("tree_id", nullable=True), _json("children"), _json("errors"), _moment("begun_at"),
    _moment("at", nullable=True), sa.Index("forks_by_end", "at", "begun_at"),
)  # fmt: skip
