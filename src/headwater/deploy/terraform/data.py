"""Roles, keys, tables, buckets and parameters in Terraform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.terraform.form import Form, Made, Reference


def role(form: Form, one: model.Role) -> Iterator[Made]:
    body = {"name": one.name, "assume_role_policy": form.document(one.trust)}
    yield Made(id=one.id, type="aws_iam_role", body=body)
    if one.statements:
        policy = {"name": "runtime", "role": f"${{{one.id}.name}}", "policy": form.document(one.statements)}
        yield Made(id=f"{one.id}Policy", type="aws_iam_role_policy", body=policy)


def managed_policy(form: Form, one: model.ManagedPolicy) -> Iterator[Made]:
    body = {"name": one.name, "policy": form.document(one.statements)}
    yield Made(id=one.id, type="aws_iam_policy", body=body)
    attached = {"role": one.role, "policy_arn": Reference(f"aws_iam_policy.{one.id}.arn")}
    yield Made(id=one.id, type="aws_iam_role_policy_attachment", body=attached)


def encryption_key(form: Form, one: model.EncryptionKey) -> Iterator[Made]:
    body = {
        "description": one.description,
        "enable_key_rotation": True,
        "policy": form.document(one.statements),
    }
    yield Made(id=one.id, type="aws_kms_key", body=body)


def table(form: Form, one: model.Table) -> Iterator[Made]:
    keys = [one.partition, one.sort, *(name for index in one.indexes for name in (index.partition, index.sort))]
    yield Made(
        id=one.id,
        type="aws_dynamodb_table",
        body={
            "name": one.name,
            "billing_mode": "PAY_PER_REQUEST",
            "hash_key": one.partition,
            "range_key": one.sort or None,
            "attribute": [{"name": name, "type": "S"} for name in dict.fromkeys(keys) if name],
            "global_secondary_index": [
                {
                    "name": index.name,
                    "hash_key": index.partition,
                    "range_key": index.sort or None,
                    "projection_type": "ALL",
                }
                for index in one.indexes
            ]
            or None,
            "stream_enabled": bool(one.stream),
            "stream_view_type": one.stream or None,
            "ttl": {"attribute_name": one.ttl, "enabled": True} if one.ttl else None,
            "point_in_time_recovery": {"enabled": True},
            "server_side_encryption": {"enabled": True},
        },
        keep=one.keep,
    )


def bucket(form: Form, one: model.Bucket) -> Iterator[Made]:
    name = f"${{{one.id}.name}}"
    yield Made(id=one.id, type="aws_s3_bucket", body={"bucket": one.name}, keep=one.keep)
    encryption = {"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}
    parts: dict[str, dict[str, Any] | None] = {
        "server_side_encryption_configuration": {"rule": [encryption]},
        "ownership_controls": {"rule": {"object_ownership": "BucketOwnerEnforced"}},
        "public_access_block": {
            "block_public_acls": True,
            "block_public_policy": True,
            "ignore_public_acls": True,
            "restrict_public_buckets": True,
        },
        "lifecycle_configuration": {"rule": _lifecycle(one)},
        "versioning": {"versioning_configuration": {"status": "Enabled"}} if one.versions else None,
        "cors_configuration": {"cors_rule": [_cors(one.cors)]} if one.cors else None,
    }
    for part, body in parts.items():
        if body is not None:
            yield Made(id=one.id, type=f"aws_s3_bucket_{part}", body={"bucket": name, **body})
    if one.notifications:
        calls = [
            {
                "lambda_function_arn": notification.function,
                "events": list(notification.events),
                "filter_prefix": notification.prefix or None,
            }
            for notification in one.notifications
        ]
        body = {"bucket": name, "lambda_function": calls}
        yield Made(id=one.id, type="aws_s3_bucket_notification", body=body, after=one.after)


def _lifecycle(one: model.Bucket) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {
            "id": "unfinished-uploads",
            "status": "Enabled",
            "filter": {},
            "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
        }
    ]
    if one.expire_days:
        rules.append({"id": "expiry", "status": "Enabled", "filter": {}, "expiration": {"days": one.expire_days}})
    return rules


def _cors(rule: model.CorsRule) -> dict[str, Any]:
    return {
        "allowed_origins": list(rule.origins),
        "allowed_methods": list(rule.methods),
        "allowed_headers": list(rule.headers),
        "expose_headers": list(rule.exposed),
        "max_age_seconds": rule.max_age_s,
    }


def bucket_policy(form: Form, one: model.BucketPolicy) -> Iterator[Made]:
    body = {"bucket": f"${{{one.bucket}.name}}", "policy": form.document(one.statements)}
    yield Made(id=one.id, type="aws_s3_bucket_policy", body=body)


def stored_parameter(form: Form, one: model.StoredParameter) -> Iterator[Made]:
    body = {"name": one.name, "type": "String", "value": one.value, "description": one.description}
    yield Made(id=one.id, type="aws_ssm_parameter", body=body)
