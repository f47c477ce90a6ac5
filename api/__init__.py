"""The HTTP side: parse, authorise, call `jobs`, shape the reply. Knows no engine and no Celery worker."""
