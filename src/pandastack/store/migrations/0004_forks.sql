-- What a key made may be a snapshot or a fork too. Forks are remembered: to be told again, and ended when they were cut off.
DROP INDEX idempotency_by_sandbox;
ALTER TABLE idempotency RENAME COLUMN sandbox_id TO made_id;
CREATE INDEX idempotency_by_made ON idempotency (made_id);
CREATE TABLE forks (
    id TEXT NOT NULL PRIMARY KEY,
    workspace TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    snapshot_id TEXT NOT NULL,
    tree_id TEXT,
    children TEXT NOT NULL,
    errors TEXT NOT NULL,
    begun_at BIGINT NOT NULL,
    at BIGINT
);
CREATE INDEX forks_by_end ON forks (at, begun_at);
