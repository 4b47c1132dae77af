"""What a server learns from, and tells to, the other servers that have its store open."""

from __future__ import annotations

from headwater.clock import Clock
from headwater.errors import DeclarationError, StoreError
from headwater.runtime.garbage import Holds
from headwater.runtime.seal import VARIABLE, Seal
from headwater.runtime.terms import Terms
from headwater.runtime.wakeups import Wakeups
from headwater.runtime.webhooks import Webhooks
from headwater.system import System

LOOK_MS = 5_000
SECRET_KEY = "secret-key"
"""The kind of place that the secret key is (`System.mark`)."""


class Neighbours:
    """`wakeups` looks every `LOOK_MS`; never where only one process can have the store open."""

    def __init__(self, clock: Clock, terms: Terms, webhooks: Webhooks, holds: Holds) -> None:
        self.wakeups = Wakeups("neighbours", clock, self._look)
        self._clock = clock
        self._terms = terms
        self._webhooks = webhooks
        self._holds = holds

    async def _look(self) -> int | None:
        if self._terms.sole:
            return None
        await self._holds.tell()
        await self._webhooks.follow()
        return self._clock.wall_ms() + LOOK_MS


async def check_secret_key(system: System, seal: Seal) -> None:
    """Have all servers of a store use one secret key: what one seals or signs, the others must be able to read.

    The first server makes the key if there is none. Raises `DeclarationError` for one that has another key, or none.
    """
    known = await system.read(system.places, SECRET_KEY)
    try:
        mine = seal.fingerprint(make=known is None)
        theirs = known.owner if known is not None else await system.mark(SECRET_KEY, mine)
        why = "" if mine == theirs else "the store's servers have another secret key"
    except StoreError as error:
        why = error.message
    if why:
        raise DeclarationError(
            why,
            operation="start",
            resource="secret_key_file",
            hint=f"give all hosts the same key: the file of `secret_key_file`, or the variable {VARIABLE}",
        )
