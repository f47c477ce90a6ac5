"""Alembic's scripts: the tables' history, up and down. `jobs.database.migrate` runs them; nothing imports them."""
