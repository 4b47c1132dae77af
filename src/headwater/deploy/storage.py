"""Tables and buckets of a stack."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.aws.shapes import TableShape, own_shapes, table_shape
from headwater.buckets import Bucket as DeclaredBucket
from headwater.deploy.model import (
    Bucket,
    BucketPolicy,
    CorsRule,
    Index,
    Notification,
    Permission,
    Resource,
    Statement,
    Table,
)
from headwater.deploy.plan import SYSTEM, Plan, Unit

OBJECTS = f"{SYSTEM}/objects"
"""The bucket with the bytes of all declared buckets."""
DAY_MS = 86_400_000


def tables(plan: Plan) -> Iterator[Resource]:
    """Headwater's own and the declared ones, but those that exist already."""
    for shape in own_shapes(plan.names):
        resource = f"{SYSTEM}/{shape.name.removeprefix(f'{plan.stack}-')}"
        yield _table(plan, resource, shape)
    for name in plan.tables:
        if name not in plan.aws.tables:
            yield _table(plan, name, table_shape(plan.names, plan.catalog.tables[name]))


def _table(plan: Plan, resource: str, shape: TableShape) -> Table:
    return Table(
        id=plan.id(resource, "Table"),
        name=shape.name,
        partition=shape.hash,
        sort=shape.range,
        indexes=tuple(Index(index.name, index.hash, index.range) for index in shape.indexes),
        ttl=shape.ttl,
        stream=shape.stream,
        keep=plan.aws.keep_data,
    )


def buckets(plan: Plan) -> Iterator[Resource]:
    """One for the bytes of all, and one each for what comes from outside."""
    if plan.has_objects:
        yield from _bucket(plan, OBJECTS)
    declared = {name: bucket for app in plan.apps for name, bucket in app.buckets.items()}
    for name in plan.drops:
        if name not in plan.aws.buckets:
            yield from _bucket(plan, name, declared[name])
        yield Permission(
            id=plan.id(name, "DropPermission"),
            function=plan.target_of(Unit(SYSTEM, "objects")),
            service="s3.amazonaws.com",
            source=plan.bucket_arn(name),
            own_account=True,
        )


def _bucket(plan: Plan, name: str, dropped: DeclaredBucket | None = None) -> Iterator[Resource]:
    made = plan.id(name, "Bucket")
    direct = dropped is not None and name in dict(plan.direct_uploads)
    notifications = () if dropped is None else (_notification(plan),)
    yield Bucket(
        id=made,
        name=plan.bucket_name(name),
        notifications=notifications,
        expire_days=0 if dropped is None else -(-dropped.table.spec.ttl_ms // DAY_MS),
        cors=_cors(plan) if direct else None,
        keep=plan.aws.keep_data,
        after=(plan.id(name, "DropPermission"),) if notifications else (),
    )
    yield BucketPolicy(
        id=plan.id(name, "BucketPolicy"), bucket=made, statements=(tls_only("s3:*", both(plan.bucket_arn(name))),)
    )


def both(bucket: str) -> tuple[str, str]:
    """The ARNs of a bucket and of its objects."""
    return bucket, f"{bucket}/*"


def _notification(plan: Plan) -> Notification:
    return Notification(("s3:ObjectCreated:*", "s3:ObjectRemoved:*"), plan.target_of(Unit(SYSTEM, "objects")))


def _cors(plan: Plan) -> CorsRule | None:
    """Browsers upload with the origins that may call the API."""
    cors = plan.config.cors
    if not cors.origins:
        return None
    return CorsRule(cors.origins, ("GET", "PUT", "POST", "HEAD"), ("*",), ("ETag",), cors.max_age_s)


def tls_only(action: str, resources: tuple[str, ...]) -> Statement:
    """Refuses everybody who comes without TLS; a denial of all actions is narrow, not wide."""
    return Statement(
        sid="TlsOnly",
        effect="Deny",
        principal=("AWS", ("*",)),
        actions=(action,),
        resources=resources,
        conditions={"Bool": {"aws:SecureTransport": "false"}},
    )
