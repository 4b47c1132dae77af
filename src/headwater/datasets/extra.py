"""The extra that reading needs."""

from __future__ import annotations

from headwater.errors import DeclarationError


def require_polars(operation: str) -> None:
    """Raise `DeclarationError` when polars is not installed."""
    try:
        import polars  # noqa: F401
    except ImportError as error:
        raise DeclarationError(
            "reading files of rows needs polars", operation=operation, hint='pip install "headwater[csv]"'
        ) from error
