"""The continuous-batching engine. Knows tokens, sequences and text; knows no jobs, HTTP, Celery, SQL or Redis."""
