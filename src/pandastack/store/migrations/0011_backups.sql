-- Backups of volumes.
CREATE TABLE backups (
    id TEXT NOT NULL PRIMARY KEY,
    volume TEXT NOT NULL,
    workspace TEXT NOT NULL,
    status TEXT NOT NULL,
    size_mb INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    total_bytes BIGINT NOT NULL,
    done_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    ended_at BIGINT,
    verified_at BIGINT,
    damaged TEXT NOT NULL,
    error TEXT,
    code TEXT
);
CREATE INDEX backups_by_workspace ON backups (workspace, created_at);
