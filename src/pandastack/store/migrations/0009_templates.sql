-- Templates that workspaces have built: their versions, their tags, and the builds with what they said.
CREATE TABLE templates (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    host TEXT NOT NULL,
    cpu INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    disk_mb INTEGER NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    build_id TEXT NOT NULL,
    form TEXT NOT NULL,
    source TEXT NOT NULL,
    content TEXT NOT NULL,
    config TEXT NOT NULL,
    start TEXT,
    ready TEXT,
    packages TEXT NOT NULL,
    deleting INTEGER NOT NULL,
    PRIMARY KEY (workspace, name, version)
);
CREATE TABLE template_tags (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    tag TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (workspace, name, tag)
);
CREATE TABLE builds (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    workspace TEXT NOT NULL,
    form TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    size_mb INTEGER NOT NULL,
    cpu INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    version INTEGER NOT NULL,
    step TEXT NOT NULL,
    image_ref TEXT,
    started_at BIGINT,
    ended_at BIGINT,
    error TEXT,
    code TEXT,
    template TEXT,
    bytes BIGINT
);
CREATE INDEX builds_by_workspace ON builds (workspace, created_at);
CREATE TABLE build_lines (
    build_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (build_id, number)
);
