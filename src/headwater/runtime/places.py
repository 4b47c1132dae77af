"""Where objects are to be, and whether that will do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headwater.app import App
from headwater.blobs import BlobStore
from headwater.config import Config
from headwater.engine import Features
from headwater.errors import DeclarationError
from headwater.objects import make_blobs


def place_of_objects(config: Config, features: Features, apps: Iterable[App[Any]]) -> BlobStore | None:
    """The place that the settings name; None where no app has buckets and it would not do.

    Raises `DeclarationError` when several hosts may have the store open and the place is a folder of one of them.
    """
    url = config.objects_url
    is_folder = url.partition("://")[0] in (url, "file")
    if features.single_process or not is_folder or (url and config.objects_shared):
        return make_blobs(url, shared=not features.single_process)
    if not any(app.buckets for app in apps):
        return None
    raise DeclarationError(
        "objects in a folder are on this host only" if url else "no place for objects is set",
        operation="start",
        resource=url or "objects",
        hint='set objects = "s3://bucket/prefix", or a folder that all hosts share and objects_shared = true',
    )
