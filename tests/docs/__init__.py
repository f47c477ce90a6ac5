"""The documentation is executed: each command and snippet of `docs/` and of the README runs against a real system."""
