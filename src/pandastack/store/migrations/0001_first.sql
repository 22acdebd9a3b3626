-- Times are microseconds since 1970; booleans 0 and 1; JSON is text.
CREATE TABLE workspaces (
    id TEXT NOT NULL PRIMARY KEY,
    sandboxes INTEGER NOT NULL,
    vcpus INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL
);
CREATE TABLE tokens (
    digest TEXT NOT NULL PRIMARY KEY,
    workspace TEXT NOT NULL,
    prefix TEXT NOT NULL,
    label TEXT NOT NULL,
    scope TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT
);
CREATE UNIQUE INDEX tokens_by_prefix ON tokens (workspace, prefix);
CREATE TABLE sandboxes (
    id TEXT NOT NULL PRIMARY KEY,
    workspace TEXT NOT NULL,
    state TEXT NOT NULL,
    template TEXT NOT NULL,
    host TEXT NOT NULL,
    isolation TEXT NOT NULL,
    cpu INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    persistent INTEGER NOT NULL,
    ttl_seconds INTEGER NOT NULL,
    boot_ms INTEGER NOT NULL,
    boot_mode TEXT NOT NULL,
    phases_ms TEXT NOT NULL,
    guest_ip TEXT NOT NULL,
    cause TEXT,
    created_at BIGINT NOT NULL,
    active_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX sandboxes_by_state ON sandboxes (state, workspace);
CREATE INDEX sandboxes_by_age ON sandboxes (created_at);
CREATE TABLE events (
    id INTEGER NOT NULL PRIMARY KEY,
    sandbox_id TEXT NOT NULL,
    time BIGINT NOT NULL,
    type TEXT NOT NULL,
    payload TEXT NOT NULL
);
CREATE INDEX events_by_sandbox ON events (sandbox_id, id);
CREATE TABLE audit (
    id INTEGER NOT NULL PRIMARY KEY,
    ts BIGINT NOT NULL,
    workspace TEXT NOT NULL,
    request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    status INTEGER NOT NULL,
    actor TEXT NOT NULL,
    meta TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (workspace, ts);
CREATE TABLE idempotency (
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    sandbox_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (workspace, key)
);
CREATE INDEX idempotency_by_sandbox ON idempotency (sandbox_id);
