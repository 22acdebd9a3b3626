-- Snapshots, and what of a sandbox comes from one: its lineage, its image while it sleeps, how long it may live.
CREATE TABLE snapshots (
    id TEXT NOT NULL PRIMARY KEY,
    sandbox_id TEXT NOT NULL,
    workspace TEXT NOT NULL,
    template TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    cpu INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    host TEXT NOT NULL,
    isolation TEXT NOT NULL,
    name TEXT NOT NULL,
    comment TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    parent_id TEXT,
    pause_ms FLOAT NOT NULL,
    phases_ms TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX snapshots_by_sandbox ON snapshots (sandbox_id, kind);
CREATE INDEX snapshots_by_workspace ON snapshots (workspace, created_at);
ALTER TABLE sandboxes ADD COLUMN from_snapshot TEXT;
ALTER TABLE sandboxes ADD COLUMN parent_id TEXT;
ALTER TABLE sandboxes ADD COLUMN tree_id TEXT;
ALTER TABLE sandboxes ADD COLUMN snapshot_id TEXT;
ALTER TABLE sandboxes ADD COLUMN on_timeout TEXT NOT NULL DEFAULT 'kill';
ALTER TABLE sandboxes ADD COLUMN idle_timeout_seconds INTEGER;
ALTER TABLE sandboxes ADD COLUMN lifetime_seconds INTEGER;
ALTER TABLE sandboxes ADD COLUMN used_seconds FLOAT NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN awake_since BIGINT;
ALTER TABLE sandboxes ADD COLUMN restore_proof TEXT;
CREATE INDEX sandboxes_by_parent ON sandboxes (parent_id);
CREATE INDEX sandboxes_by_tree ON sandboxes (tree_id);
