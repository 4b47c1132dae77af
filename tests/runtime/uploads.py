"""An app with a bucket, for the tests of buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater import App, Bucket, Event, ObjectInfo, Removed
from headwater.testing import Harness


def declare(**options: Any) -> tuple[App[None], Bucket]:
    app = App("shop")
    return app, app.bucket("uploads", **options)


def blobs_of(h: Harness) -> set[str]:
    folder = h.supervisor.blobs.folder  # type: ignore[attr-defined]
    return {path.name for path in Path(folder).glob("[0-9a-f][0-9a-f]/*")}


def follow(app: App[None], bucket: Bucket) -> list[tuple[str, ObjectInfo]]:
    """What the bucket's handlers get, in their order."""
    seen: list[tuple[str, ObjectInfo]] = []

    @app.on(bucket.created)
    async def created(event: Event[ObjectInfo]) -> None:
        seen.append(("created", event.data))

    @app.on(bucket.deleted)
    async def deleted(event: Removed[ObjectInfo]) -> None:
        seen.append(("expired" if event.expired else "deleted", event.data))

    return seen
