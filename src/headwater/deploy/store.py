"""What a deployed stack's store has to know before its functions work: the catalog of the apps."""

from __future__ import annotations

import asyncio

from headwater.engines import make_engine
from headwater.graph import Graph


def install_catalog(graph: Graph, stack: str) -> int:
    """Write the catalog into the stack's store; its revision. Functions that wanted it before are tried again."""
    return asyncio.run(_install(graph, stack))


async def _install(graph: Graph, stack: str) -> int:
    engine = make_engine(f"aws:{stack}")
    await engine.open()
    try:
        return await engine.install(graph.catalog)
    finally:
        await engine.close()
