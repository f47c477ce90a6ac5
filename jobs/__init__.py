"""The domain: what a job is, and every statement that changes one.

Knows the database, the event channels and the producing side of the queue. Knows no HTTP, no engine and no
Celery worker.
"""
