"""Buckets: objects by prefix, uploads; one object with its preview, its versions, and the notifications it fired."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from headwater.console.previews import READ, Preview, kind_of, preview_of
from headwater.console.screens import Screen, View
from headwater.console.screens.tables import told_changes
from headwater.errors import UnknownResource

_SHOWN = 100
_CHANGES = 20
_VERSIONS = 50
_FACTS = ("size", "content_type", "metadata", "sha256", "etag")


async def load_buckets(view: View) -> Mapping[str, Any]:
    wanted = view.query.get("q", "").lower()
    found = (await view.ask("resources"))["buckets"]
    return {"buckets": [bucket for bucket in found if wanted in bucket["name"].lower()]}


async def load_bucket(view: View) -> Mapping[str, Any]:
    bucket = await _bucket(view)
    prefix, flat = view.query.get("prefix", ""), bool(view.query.get("flat"))
    page = await view.ask(
        "bucket-list",
        bucket=bucket["name"],
        prefix=prefix,
        delimiter="" if flat else "/",
        limit=_SHOWN,
        cursor=view.query.get("cursor") or None,
    )
    filters = {name: value for name, value in view.query.items() if name != "cursor" and value}
    entries = [(below, None) for below in page["prefixes"]] + [(info["key"], info) for info in page["items"]]
    return {
        "bucket": bucket,
        "prefix": prefix,
        "crumbs": [] if flat else crumbs_of(prefix),
        "entries": sorted(entries, key=lambda entry: entry[0].encode("utf-8", "surrogatepass")),
        "next": urlencode({**filters, "cursor": page["cursor"]}) if page["cursor"] else "",
        "first": urlencode(filters),
        "flat": flat,
        "clearing": shlex.join(["headwater", "bucket", "clear", bucket["name"], *([prefix] if prefix else [])]),
    }


async def _bucket(view: View) -> dict[str, Any]:
    name = f"{view.path['app']}/{view.path['name']}"
    for bucket in (await view.ask("resources"))["buckets"]:
        if bucket["name"] == name:
            return dict(bucket)
    raise UnknownResource("there is no such bucket", operation="show", resource=name)


def crumbs_of(prefix: str) -> list[tuple[str, str]]:
    """Each folder of a prefix: its name, and the prefix that leads to it."""
    names = prefix.split("/")[:-1]
    return [(name, "/".join(names[: place + 1]) + "/") for place, name in enumerate(names)]


async def load_object(view: View) -> Mapping[str, Any]:
    bucket = await _bucket(view)
    key, version = view.query.get("key", ""), view.query.get("version", "")
    named = {"bucket": bucket["name"], "key": key}
    changes = (await view.ask("bucket-history", **named, limit=_CHANGES))["changes"]
    versions = await view.ask("bucket-versions", **named, limit=_VERSIONS) if bucket["versions"] else {"items": []}
    try:
        info = await view.ask("bucket-head", **named, version=version)
    except UnknownResource:
        if version or not (changes or versions["items"]):
            raise
        info = None
    return {
        "bucket": bucket,
        "key": key,
        "version": version,
        "info": info,
        "preview": await _preview(view, named | ({"version": version} if version else {}), info),
        "versions": versions["items"],
        "changes": [shown async for shown in told_changes(view, [_told(change) for change in changes])],
        "most": _CHANGES,
        "folder": key.rpartition("/")[0] + "/" if "/" in key else "",
        "crumbs": crumbs_of(key),
    }


async def _preview(view: View, named: Mapping[str, str], info: Mapping[str, Any] | None) -> Preview:
    if info is None:
        return Preview("none")
    kind = kind_of(info["content_type"], info["key"])
    if kind in ("image", "none"):
        return Preview(kind)
    data = b""
    async with await view.house.open_object(named) as body:
        async for chunk in body:
            data += chunk
            if len(data) >= READ:
                break
    return preview_of(info["content_type"], info["key"], data[:READ], cut=info["size"] > READ)


def _told(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change of an object without what only the store needs to know."""
    images = {name: change[name] and {k: v for k, v in change[name].items() if k in _FACTS} for name in ("old", "data")}
    return {**change, **images}


SCREENS = [
    Screen("/buckets", "Buckets", "buckets.html", load_buckets, key="b"),
    Screen("/buckets/{app}/{name}", "Bucket", "bucket.html", load_bucket, topics=("tail",)),
    Screen("/buckets/{app}/{name}/object", "Object", "object.html", load_object, topics=("tail",)),
]
