-- Volumes, who has them, and what each sandbox has mounted.
CREATE TABLE volumes (
    id TEXT NOT NULL PRIMARY KEY,
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    state TEXT NOT NULL,
    size_mb INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    writer_id TEXT,
    frozen INTEGER NOT NULL,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volumes_by_name ON volumes (workspace, name);
CREATE TABLE attachments (
    volume_id TEXT NOT NULL,
    sandbox_id TEXT NOT NULL,
    path TEXT NOT NULL,
    read_only INTEGER NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (volume_id, sandbox_id)
);
CREATE INDEX attachments_by_sandbox ON attachments (sandbox_id);
ALTER TABLE sandboxes ADD COLUMN volumes TEXT NOT NULL DEFAULT '[]';
