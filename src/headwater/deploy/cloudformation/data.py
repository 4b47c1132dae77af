"""Roles, keys, tables, buckets and parameters in CloudFormation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.cloudformation.form import Form, Made
from headwater.deploy.policies import policy_document


def role(form: Form, one: model.Role) -> Iterator[Made]:
    policies = (
        [{"PolicyName": "runtime", "PolicyDocument": policy_document(one.statements)}] if one.statements else None
    )
    yield Made(
        id=one.id,
        type="AWS::IAM::Role",
        properties={
            "RoleName": one.name,
            "AssumeRolePolicyDocument": policy_document(one.trust),
            "Policies": policies,
            "Tags": form.tags,
        },
    )


def managed_policy(form: Form, one: model.ManagedPolicy) -> Iterator[Made]:
    properties = {
        "ManagedPolicyName": one.name,
        "Roles": [one.role],
        "PolicyDocument": policy_document(one.statements),
    }
    yield Made(id=one.id, type="AWS::IAM::ManagedPolicy", properties=properties)


def encryption_key(form: Form, one: model.EncryptionKey) -> Iterator[Made]:
    properties = {
        "Description": one.description,
        "EnableKeyRotation": True,
        "KeyPolicy": policy_document(one.statements),
        "Tags": form.tags,
    }
    yield Made(id=one.id, type="AWS::KMS::Key", properties=properties)


def table(form: Form, one: model.Table) -> Iterator[Made]:
    keys = [one.partition, one.sort, *(name for index in one.indexes for name in (index.partition, index.sort))]
    indexes = [
        {
            "IndexName": index.name,
            "KeySchema": _key_schema(index.partition, index.sort),
            "Projection": {"ProjectionType": "ALL"},
        }
        for index in one.indexes
    ]
    yield Made(
        id=one.id,
        type="AWS::DynamoDB::Table",
        properties={
            "TableName": one.name,
            "KeySchema": _key_schema(one.partition, one.sort),
            "AttributeDefinitions": [
                {"AttributeName": name, "AttributeType": "S"} for name in dict.fromkeys(keys) if name
            ],
            "BillingMode": "PAY_PER_REQUEST",
            "GlobalSecondaryIndexes": indexes or None,
            "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
            "SSESpecification": {"SSEEnabled": True},
            "StreamSpecification": {"StreamViewType": one.stream} if one.stream else None,
            "TimeToLiveSpecification": {"AttributeName": one.ttl, "Enabled": True} if one.ttl else None,
            "Tags": form.tags,
        },
        keep=one.keep,
    )


def _key_schema(partition: str, sort: str) -> list[dict[str, str]]:
    keys = [{"AttributeName": partition, "KeyType": "HASH"}]
    return [*keys, {"AttributeName": sort, "KeyType": "RANGE"}] if sort else keys


def bucket(form: Form, one: model.Bucket) -> Iterator[Made]:
    encryption = [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    yield Made(
        id=one.id,
        type="AWS::S3::Bucket",
        properties={
            "BucketName": one.name,
            "BucketEncryption": {"ServerSideEncryptionConfiguration": encryption},
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "LifecycleConfiguration": {"Rules": _lifecycle(one)},
            "VersioningConfiguration": {"Status": "Enabled"} if one.versions else None,
            "NotificationConfiguration": _notifications(one),
            "CorsConfiguration": {"CorsRules": [_cors(one.cors)]} if one.cors else None,
            "Tags": form.tags,
        },
        after=one.after,
        keep=one.keep,
    )


def _lifecycle(one: model.Bucket) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {"Id": "unfinished-uploads", "Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
    ]
    if one.expire_days:
        rules.append({"Id": "expiry", "Status": "Enabled", "ExpirationInDays": one.expire_days})
    return rules


def _notifications(one: model.Bucket) -> dict[str, Any] | None:
    calls = [
        {
            "Event": event,
            "Function": notification.function,
            "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": notification.prefix}]}}
            if notification.prefix
            else None,
        }
        for notification in one.notifications
        for event in notification.events
    ]
    return {"LambdaConfigurations": calls} if calls else None


def _cors(rule: model.CorsRule) -> dict[str, Any]:
    return {
        "AllowedOrigins": list(rule.origins),
        "AllowedMethods": list(rule.methods),
        "AllowedHeaders": list(rule.headers),
        "ExposedHeaders": list(rule.exposed),
        "MaxAge": rule.max_age_s,
    }


def bucket_policy(form: Form, one: model.BucketPolicy) -> Iterator[Made]:
    properties = {"Bucket": f"${{{one.bucket}.name}}", "PolicyDocument": policy_document(one.statements)}
    yield Made(id=one.id, type="AWS::S3::BucketPolicy", properties=properties)


def stored_parameter(form: Form, one: model.StoredParameter) -> Iterator[Made]:
    properties = {
        "Name": one.name,
        "Type": "String",
        "Value": one.value,
        "Description": one.description,
        "Tags": dict(sorted(form.stack.tags.items())),
    }
    yield Made(id=one.id, type="AWS::SSM::Parameter", properties=properties)
