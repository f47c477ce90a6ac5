"""The Celery side: the pool, the one task, the lease keeper, the loading of models."""
