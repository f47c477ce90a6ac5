"""Metrics, for Prometheus: what the queue and its processes count, and how a process serves it.

Each process has a registry of its own and exposes what it did itself; what all of them share (the queues) is read from
the database by those who serve it, and is the same wherever it is asked for: take the `max` of it, and the `sum` of the
rest. Nothing here is told of single tokens: what is counted often is counted where it happens, without a lock, and read
when somebody scrapes. No label ever holds an id, an owner, or text.
"""
