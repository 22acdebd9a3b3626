-- What versions of templates were built of, kept so that a build can be done again and compared.
CREATE TABLE template_inputs (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    wish TEXT NOT NULL,
    bases TEXT NOT NULL,
    archive TEXT,
    archive_bytes BIGINT NOT NULL,
    listing TEXT NOT NULL,
    listing_bytes BIGINT NOT NULL,
    PRIMARY KEY (workspace, name, version)
);
ALTER TABLE builds ADD COLUMN verifies TEXT;
ALTER TABLE builds ADD COLUMN comparison TEXT;
