"""The AWS account that is deployed to. The SDK is imported when the first client is made, never by the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from headwater.errors import DeclarationError, HeadwaterError

EXTRA = 'pip install "headwater[aws]"'


class CloudRefused(HeadwaterError):
    """AWS refused what was asked; its code and words are in the message."""


class Cloud:
    """Clients, and who and where one is; the region and the credentials come from the usual AWS_* and profiles."""

    def __init__(self) -> None:
        try:
            import boto3
        except ImportError as error:
            raise DeclarationError("this needs boto3", operation="deploy", hint=EXTRA) from error
        self._session: Any = boto3.session.Session()
        self._clients: dict[str, Any] = {}
        if not self.region:
            raise DeclarationError("no region is set", operation="deploy", hint="set AWS_REGION or a profile's region")

    @property
    def region(self) -> str:
        return str(os.environ.get("AWS_REGION") or self._session.region_name or "")

    @cached_property
    def account(self) -> str:
        return str(self.call("sts", "get_caller_identity")["Account"])

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self._session.client(service, region_name=self.region)
        return self._clients[service]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        """One request. Raises `CloudRefused` with what AWS said."""
        with _translated(f"{service} {operation}"):
            return getattr(self.client(service), operation)(**parameters)

    def pages(self, service: str, operation: str, **parameters: Any) -> Iterator[Any]:
        """The answers to as many requests as there are pages."""
        with _translated(f"{service} {operation}"):
            yield from self.client(service).get_paginator(operation).paginate(**parameters)


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        code, message = told.get("Code", "Unknown"), told.get("Message", str(error))
        raise CloudRefused(f"{code}: {message}", operation=operation) from error
    except BotoCoreError as error:
        hint = "aws configure, or AWS_PROFILE" if "credentials" in str(error).lower() else ""
        raise CloudRefused(str(error), operation=operation, hint=hint) from error


class Artifacts:
    """The bucket of packages and templates: one for an account and region, private, encrypted, over TLS only."""

    def __init__(self, cloud: Cloud, name: str = "") -> None:
        self._cloud = cloud
        self.name = name or f"headwater-artifacts-{cloud.account}-{cloud.region}"

    def prepare(self) -> None:
        """Make it unless it is there."""
        try:
            self._cloud.call("s3", "head_bucket", Bucket=self.name)
        except CloudRefused as refused:
            if not refused.message.startswith(("404", "NoSuchBucket")):
                raise
            self._create()

    def _create(self) -> None:
        call, region = self._cloud.call, self._cloud.region
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        call("s3", "create_bucket", Bucket=self.name, **place)
        closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        call(
            "s3",
            "put_public_access_block",
            Bucket=self.name,
            PublicAccessBlockConfiguration=dict.fromkeys(closed, True),
        )
        call("s3", "put_bucket_policy", Bucket=self.name, Policy=_tls_only(self.name))

    def upload(self, file: Path, key: str) -> bool:
        """Put a file whose key is made of its digest; False when it is there already."""
        try:
            self._cloud.call("s3", "head_object", Bucket=self.name, Key=key)
        except CloudRefused as refused:
            if not refused.message.startswith(("404", "NoSuchKey")):
                raise
            with _translated("s3 upload"):
                self._cloud.client("s3").upload_file(str(file), self.name, key)
            return True
        return False

    def put_text(self, text: str, key: str) -> str:
        """Put a text; its URL."""
        self._cloud.call("s3", "put_object", Bucket=self.name, Key=key, Body=text.encode())
        return f"{self._cloud.client('s3').meta.endpoint_url}/{self.name}/{key}"


def _tls_only(bucket: str) -> str:
    from json import dumps

    arn = f"arn:aws:s3:::{bucket}"
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [arn, f"{arn}/*"]}
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    return dumps({"Version": "2012-10-17", "Statement": [{**refused, "Sid": "TlsOnly", "Condition": condition}]})
