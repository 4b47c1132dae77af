"""Bulk loads: staged in slices, flipped by one commit, moved into place in slices."""

from __future__ import annotations

from headwater.engine import Staging
from headwater.engines.postgres.listening import Listening


class Loads(Listening):
    """Part of the engine (`engine.Loads`)."""

    async def begin_load(self, table: str, scope: str) -> Staging:
        raise NotImplementedError

    async def unchanged_since_load(self, table: str, scope: str) -> bool:
        raise NotImplementedError

    async def expand(self, table: str) -> int:
        raise NotImplementedError

    def abandon(self, load: int) -> None:
        raise NotImplementedError

    async def sweep_loads(self, limit: int) -> int:
        raise NotImplementedError
