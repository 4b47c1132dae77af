"""The data of a stack: which tables and buckets hold it, and how they are deleted when somebody says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from headwater.deploy.cloud import Cloud, CloudRefused
from headwater.deploy.rollout import Rollout

TABLE, BUCKET = "AWS::DynamoDB::Table", "AWS::S3::Bucket"
_GONE = ("ResourceNotFoundException", "NoSuchBucket", "404")


class Kept(msgspec.Struct, frozen=True):
    type: str
    name: str


def kept_data(rollout: Rollout) -> list[Kept]:
    """Those that the stack has made; existing ones that it uses are not among them."""
    return [Kept(type_, name) for type_, name in sorted(rollout.resources(TABLE, BUCKET))]


def delete_data(cloud: Cloud, found: list[Kept]) -> Iterator[Kept]:
    """Delete them one after the other, all versions of objects too; those that are gone already are passed over."""
    for one in found:
        try:
            if one.type == BUCKET:
                _empty(cloud, one.name)
                cloud.call("s3", "delete_bucket", Bucket=one.name)
            else:
                cloud.call("dynamodb", "delete_table", TableName=one.name)
        except CloudRefused as refused:
            if not refused.message.startswith(_GONE):
                raise
            continue
        yield one


def _empty(cloud: Cloud, bucket: str) -> None:
    for page in cloud.pages("s3", "list_object_versions", Bucket=bucket):
        listed: list[dict[str, Any]] = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in listed]
        if objects:
            answer = cloud.call("s3", "delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            for error in answer.get("Errors", ()):
                raise CloudRefused(
                    f"{error['Code']}: {error['Message']}", operation="destroy", resource=f"{bucket}/{error['Key']}"
                )
