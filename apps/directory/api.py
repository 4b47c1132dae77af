"""What became of the files that were dropped. All else that the app serves is declared in `app.py`."""

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel

from apps.directory.app import Load, app, loads
from headwater import require


class LoadPage(BaseModel):
    """Newest file first."""

    items: list[Load]
    cursor: str | None


@app.http.get("/loads", dependencies=[require(plan="internal")])
async def list_loads(
    state: Literal["loaded", "unchanged", "failed"] | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
    cursor: str | None = None,
) -> LoadPage:
    """Loads and failures, with the rejected rows by line; `cursor` continues a page."""
    if state is None:
        page = await loads.query(limit=limit, cursor=cursor, reverse=True)
    else:
        page = await loads.query(state, index="by-state", limit=limit, cursor=cursor, reverse=True)
    return LoadPage(items=page.items, cursor=page.cursor)
