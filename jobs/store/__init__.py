"""The store: every statement that changes a job, on SQLite and PostgreSQL alike.

`Store` is the one door; the modules behind it each own one concern and never open a transaction. No web, no
Celery, no Redis: whoever calls tells the world after the commit.
"""

from jobs.store.facade import Store

__all__ = ["Store"]
