"""One module a revision. A revision is frozen once released: it imports nothing of `jobs`."""
