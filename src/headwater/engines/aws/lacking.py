"""What the engine declares not to have: SQL over the store, and erasure. Nothing of it is done in part."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from headwater.engine import Answer, Forgotten, Question, Remains
from headwater.errors import Unsupported


class Lacking:
    async def ask(self, question: Question) -> Answer:
        raise Unsupported(
            "a store on AWS has no SQL", operation="sql", hint="export its tables, or ask them with PartiQL"
        )

    async def traces(self, forgotten: Forgotten) -> set[str]:
        raise _no_erasure()

    def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        raise _no_erasure()

    async def withdraw(self, places: Sequence[tuple[str, int]]) -> int:
        raise _no_erasure()

    async def scrub(self) -> bool:
        raise _no_erasure()


def _no_erasure() -> Unsupported:
    return Unsupported(
        "a store on AWS cannot forget a key everywhere: streams, queues and backups keep what they have",
        operation="erase",
        hint="delete the row, and let the history and the backups end with their retention",
    )
