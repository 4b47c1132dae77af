"""What people reach without a function in between: S3 for uploads, under their own prefix, and the console's files.

The role of signed-in users is the same for all; who it is stands in a principal tag, which Cognito takes from a claim
of the token. So S3 and DynamoDB compare the prefix or the leading key with the very subject that the apps know.
"""

from __future__ import annotations

from collections.abc import Iterator

from headwater.deploy.model import Bucket, BucketPolicy, IdentityPool, Output, Resource, Role, Site, Statement
from headwater.deploy.plan import SYSTEM, Plan
from headwater.deploy.storage import both, tls_only

TAG = "owner"
_OWNER = f"${{!aws:PrincipalTag/{TAG}}}"
CONSOLE = f"{SYSTEM}/console"


def identities(plan: Plan) -> Iterator[Resource]:
    uploads = plan.aws.uploads
    if uploads is None:
        return
    pool, role = plan.id(SYSTEM, "IdentityPool"), plan.id(SYSTEM, "UploaderRole")
    yield Role(
        id=role,
        name=plan.names.role(SYSTEM, "uploader"),
        trust=(
            Statement(
                principal=("Federated", ("cognito-identity.amazonaws.com",)),
                actions=("sts:AssumeRoleWithWebIdentity", "sts:TagSession"),
                resources=(),
                conditions={
                    "StringEquals": {"cognito-identity.amazonaws.com:aud": f"${{{pool}.id}}"},
                    "ForAnyValue:StringLike": {"cognito-identity.amazonaws.com:amr": "authenticated"},
                },
            ),
        ),
        statements=tuple(_own(plan)),
    )
    yield IdentityPool(
        id=pool,
        name=plan.stack,
        provider=uploads.provider,
        role=f"${{{role}.arn}}",
        tag=TAG,
        claim=uploads.claim,
    )


def _own(plan: Plan) -> Iterator[Statement]:
    """What a user may: their own objects, and with `tables` their own rows."""
    buckets = sorted({plan.bucket_arn(bucket) for bucket, _ in plan.direct_uploads})
    if buckets:
        objects = tuple(f"{bucket}/{_OWNER}/*" for bucket in buckets)
        yield Statement(actions=("s3:GetObject", "s3:PutObject"), resources=objects)
        yield Statement(
            actions=("s3:ListBucket",),
            resources=tuple(buckets),
            conditions={"StringLike": {"s3:prefix": f"{_OWNER}/*"}},
        )
    if plan.aws.uploads is not None and plan.aws.uploads.tables and plan.owned_tables:
        yield Statement(
            actions=("dynamodb:GetItem", "dynamodb:Query"),
            resources=tuple(plan.table_arn(table) for table in plan.owned_tables),
            conditions={
                "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": (_OWNER,)},
                "Null": {"dynamodb:LeadingKeys": "false"},
            },
        )


def console(plan: Plan) -> Iterator[Resource]:
    """The console's files on S3, which CloudFront alone may read."""
    if not plan.aws.console:
        return
    bucket, site = plan.id(CONSOLE, "Bucket"), plan.id(CONSOLE, "Site")
    arn = plan.bucket_arn(CONSOLE)
    distribution = f"arn:${{partition}}:cloudfront::${{account}}:distribution/${{{site}.id}}"
    yield Bucket(id=bucket, name=plan.bucket_name(CONSOLE), keep=False)
    yield Site(id=site, name=f"{plan.stack}-console", description=f"Console of {plan.stack}", bucket=bucket)
    yield BucketPolicy(
        id=f"{bucket}Policy",
        bucket=bucket,
        statements=(
            tls_only("s3:*", both(arn)),
            Statement(
                sid="CloudFront",
                principal=("Service", ("cloudfront.amazonaws.com",)),
                actions=("s3:GetObject",),
                resources=(f"{arn}/*",),
                conditions={"StringEquals": {"aws:SourceArn": distribution}},
            ),
        ),
    )


def user_outputs(plan: Plan) -> Iterator[Output]:
    if plan.aws.uploads is not None:
        pool = plan.id(SYSTEM, "IdentityPool")
        yield Output(id="IdentityPool", value=f"${{{pool}.id}}", description="Where those who upload get credentials")
        for bucket in sorted({bucket for bucket, _ in plan.direct_uploads}):
            yield Output(
                id=plan.id(bucket, "UploadBucket"),
                value=plan.bucket_name(bucket),
                description=f"Where {bucket} takes uploads",
            )
    if plan.aws.console:
        site = plan.id(CONSOLE, "Site")
        yield Output(id="ConsoleUrl", value=f"https://${{{site}.domain}}", description="The console")
        yield Output(id="ConsoleBucket", value=plan.bucket_name(CONSOLE), description="Where the console's files go")
