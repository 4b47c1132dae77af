"""What the console shows and does: the operations of a server, or of a store that no server runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class House(Protocol):
    """The admin operations; `by` is who asks, for the audit."""

    def describe(self) -> list[dict[str, Any]]: ...

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any: ...

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]: ...

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]: ...
