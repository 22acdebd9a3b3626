-- What a sandbox has reached in all of its life, added up, and what its machine's jail lacks.
ALTER TABLE sandboxes ADD COLUMN degraded TEXT;
CREATE TABLE books (
    sandbox_id TEXT NOT NULL PRIMARY KEY,
    book TEXT NOT NULL
) WITHOUT ROWID;
