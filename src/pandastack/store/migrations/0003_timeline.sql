-- Checkpoints: what is kept by itself behind each command, and where it stands in the timeline of its sandbox.
ALTER TABLE sandboxes ADD COLUMN checkpoints TEXT NOT NULL DEFAULT 'off';
ALTER TABLE sandboxes ADD COLUMN keep_checkpoints INTEGER NOT NULL DEFAULT 20;
ALTER TABLE snapshots ADD COLUMN step INTEGER;
ALTER TABLE snapshots ADD COLUMN command TEXT NOT NULL DEFAULT '';
ALTER TABLE snapshots ADD COLUMN exit_code INTEGER;
ALTER TABLE snapshots ADD COLUMN duration_ms INTEGER;
