-- Secrets of sandboxes, sealed: the key is in a file beside the database, and never in it.
CREATE TABLE secrets (
    sandbox_id TEXT NOT NULL,
    name TEXT NOT NULL,
    workspace TEXT NOT NULL,
    hosts TEXT NOT NULL,
    headers TEXT NOT NULL,
    placeholder TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (sandbox_id, name)
);
