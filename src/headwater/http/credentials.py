"""How a request is told that its credentials do not let it in."""

from __future__ import annotations

from headwater.errors import Unauthenticated


def refused(why: str) -> Unauthenticated:
    return Unauthenticated(why, operation="authenticate", hint="send Authorization: Bearer TOKEN or X-Api-Key: KEY")
