"""The documentation: pages in `docs/`, reference parts made from the code, and the site that both become.

A page takes a part in with a line `<!-- made: NAME -->`; `ops.docs.pages` knows the names. What is made is written to
`build/docs` only, so there is no copy that could go stale. Nobody imports this package but its tests.
"""
