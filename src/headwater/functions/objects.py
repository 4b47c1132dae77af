"""The function that S3 tells of objects: what is put into a drop bucket becomes an object of the declared bucket.

Once for each put: the last sequencer of a key is in `headwater/drops`, written in the commit of the object, so a notice
that comes again, or after a later one, changes nothing. Deletions are followed likewise. What cannot be an object of
the bucket (it is too large, say) is told to the log and left where it is; all else that fails is tried again by Lambda.
HEADWATER_BUCKETS maps declared buckets ("app/name") to their drop buckets, as JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import msgspec
import structlog

from headwater.blobs import CHUNK
from headwater.buckets import Bucket
from headwater.errors import InvalidValue, StoreError
from headwater.functions.decoding import ObjectNotice, is_later, read_s3
from headwater.functions.home import Home, variable
from headwater.functions.invocation import Invocation, entry_point
from headwater.object_listing import BINARY
from headwater.system import Drop
from headwater.unit import Write
from headwater.work import UnitOfWork, alone, enter, leave

_GONE = ("NoSuchKey", "NoSuchVersion", "404", "PreconditionFailed", "412")
log = structlog.get_logger("headwater.functions")


async def follow(home: Home, event: Any, invocation: Invocation) -> dict[str, int]:
    """Do what the notices say; how many had an effect."""
    drops = Drops(home, msgspec.json.decode(variable("HEADWATER_BUCKETS"), type=dict[str, str]))
    return {"followed": sum([await drops.follow(notice) for notice in read_s3(event)])}


class Drops:
    """The drop buckets, by their names in S3."""

    def __init__(self, home: Home, names: dict[str, str]) -> None:
        self._home = home
        buckets = {name: bucket for app in home.graph.apps for name, bucket in app.buckets.items()}
        self._buckets = {drop: buckets[name] for name, drop in names.items() if name in buckets}

    async def follow(self, notice: ObjectNotice) -> bool:
        bucket = self._buckets.get(notice.bucket)
        told = {"drop": notice.bucket, "key": notice.key, "sequencer": notice.sequencer}
        if bucket is None:
            log.error("no declared bucket has this drop bucket", **told)
            return False
        if not await self._is_news(bucket, notice):
            return False
        try:
            done = await (self._put(bucket, notice) if notice.kind == "created" else self._delete(bucket, notice))
        except InvalidValue as error:
            log.error("this can be no object of the bucket", bucket=bucket.name, error=str(error), **told)
            return False
        log.info("an object was followed", bucket=bucket.name, kind=notice.kind, had_effect=done, **told)
        return done

    async def _is_news(self, bucket: Bucket, notice: ObjectNotice) -> bool:
        """A look before anything is fetched; the commit looks again."""
        system = self._home.system
        found = await system.read(system.drops, bucket.name, notice.key)
        return found is None or is_later(notice.sequencer, found.sequencer)

    async def _put(self, bucket: Bucket, notice: ObjectNotice) -> bool:
        found = await asyncio.to_thread(self._open, notice)
        if found is None:
            return False
        draft = bucket.draft(notice.key, found.get("ContentType") or BINARY, found.get("Metadata") or {})
        holder = _Holder()
        try:
            blob = await bucket.write_blob(holder, _chunks(found["Body"]))

            async def put(unit: UnitOfWork) -> None:
                await bucket.put_blob(draft, blob)

            done = await self._once(bucket, notice, put)
            if not done:
                await self._home.blobs.delete(blob.id)
            return done
        finally:
            holder.closed = True
            found["Body"].close()

    async def _delete(self, bucket: Bucket, notice: ObjectNotice) -> bool:
        async def delete(unit: UnitOfWork) -> None:
            await bucket.delete(notice.key)

        return await self._once(bucket, notice, delete)

    async def _once(self, bucket: Bucket, notice: ObjectNotice, change: Any) -> bool:
        """Make the change with the row that says so, unless a later one was made."""
        table = self._home.system.drops
        key = table.key(bucket.name, notice.key)

        async def work(unit: UnitOfWork) -> bool:
            record = await unit.read(table.name, key)
            if record is not None and not is_later(notice.sequencer, table.codec.decode(record.body).sequencer):
                return False
            token = enter(unit)
            try:
                await change(unit)
            finally:
                leave(token)
            row = Drop(bucket=bucket.name, key=notice.key, sequencer=notice.sequencer)
            unit.write(Write(table.name, key, unit.next_id(), table.codec.encode(row)))
            return True

        return await alone(self._home.engine, work)

    def _open(self, notice: ObjectNotice) -> dict[str, Any] | None:
        """The object that the notice is about; None when it is gone, or another by now, of which there is a notice."""
        from botocore.exceptions import BotoCoreError, ClientError

        which = {"VersionId": notice.version} if notice.version else {"IfMatch": notice.etag}
        try:
            answer: dict[str, Any] = self._s3.get_object(Bucket=notice.bucket, Key=notice.key, **which)
            return answer
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _GONE:
                return None
            raise StoreError(str(error), operation="get", resource=f"{notice.bucket} {notice.key}") from error
        except BotoCoreError as error:
            raise StoreError(str(error), operation="get", resource=f"{notice.bucket} {notice.key}") from error

    @cached_property
    def _s3(self) -> Any:
        import botocore.session

        return botocore.session.get_session().create_client("s3")


class _Holder:
    """Holds the bytes of an object until its commit."""

    closed = False


async def _chunks(body: Any) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(body.read, CHUNK):
        yield chunk


handle = entry_point(follow)
