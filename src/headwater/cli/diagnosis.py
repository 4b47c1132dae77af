"""What `headwater doctor` finds and does."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, runtime_checkable

from headwater.cli.session import Session, check_present
from headwater.engines import make_engine
from headwater.errors import DeclarationError, StoreDamaged
from headwater.store_url import shown_store

EXPLAINED = (
    "Each line names what is damaged; nothing of it is ever read as if it were whole, and the rest still answers.\n"
    "Stop the server, keep a copy of the store's folder, and restore a backup. If an older state was restored on\n"
    "purpose, or the loss of the newest commits is accepted, `headwater doctor --accept` lets the server start again."
)


@runtime_checkable
class AcceptsLoss(Protocol):
    """An engine that notices missing commits, and can be told to go on without them."""

    async def accept(self) -> None: ...


def diagnose(session: Session) -> dict[str, Any]:
    """The answer of the operation `check`; a store that cannot even be opened is damage, too."""
    try:
        found: dict[str, Any] = session.call("check")
    except StoreDamaged as error:
        return {
            "sound": False,
            "damage": [f"{error.message}{error.hint and f' ({error.hint})'}"],
            "unreferenced_blobs": 0,
        }
    return found


def accept_loss(session: Session) -> None:
    """Give up what the store lacks. Refused while a process owns it."""
    check_present(session.store)
    engine = make_engine(session.store)
    if not isinstance(engine, AcceptsLoss):
        raise DeclarationError(
            "this store has nothing to accept", operation="doctor", resource=shown_store(session.store)
        )
    asyncio.run(engine.accept())
