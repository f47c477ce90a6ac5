"""Abuse on purpose: `python -m ops.fuzz`. What the API promises in its document, and what it makes of hostile input."""
