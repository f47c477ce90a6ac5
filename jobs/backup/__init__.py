"""Backup and restore: everything that Penstock keeps, in one file, and back into an empty place.

The file is a ZIP that any tool can open: `tables/NAME.jsonl` (a row a line), `files/NAME` (the objects of the vault)
and `manifest.json`. It is the same for SQLite and PostgreSQL, so a system may grow from one to the other through it
(`ops/decisions/0037`). It holds prompts, completions and the secrets of webhooks: treat it like the database.

    archive     the file: entries, the manifest, whole or not there at all
    rows        tables as they are in a database, and rows as JSON and back
    saving      one snapshot of all tables, then the objects that it names
    restoring   into an empty database and vault; what ran when the backup was made is queued again
"""
