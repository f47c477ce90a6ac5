"""Fixtures that every room's tests share."""

from __future__ import annotations

from tests.support.models import demo_model_path, tiny_model_path

__all__ = ["demo_model_path", "tiny_model_path"]
