"""Code in another module of the same package."""

from tests.grants.shapes import rows

__all__ = ["read", "rows"]


async def read() -> None:
    await rows.get("1")
