"""A template deployed on a stand-in, and each resource's description compared with it.

What the stand-in does not have, or does not tell, is listed in `PASSED_OVER`: nothing is known of it here.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator

import msgspec
import pytest

from headwater.config import Config
from headwater.deploy.cloud import Cloud
from headwater.deploy.cloudformation import to_cloudformation
from headwater.deploy.stack import synthesize
from headwater.graph import build_graph
from tests.aws.ministack import Ministack
from tests.deploy.applications import app_of
from tests.deploy.describing import Deployed
from tests.deploy.resolving import Template

PATIENCE_S = 60.0
PASSED_OVER = {
    "AWS::ApiGatewayV2::Api CorsConfiguration",
    "AWS::ApiGatewayV2::Stage DefaultRouteSettings",
    "AWS::DynamoDB::Table PointInTimeRecoverySpecification",
    "AWS::DynamoDB::Table SSESpecification",
    "AWS::DynamoDB::Table TimeToLiveSpecification",
    "AWS::Lambda::EventSourceMapping Tags",
    "AWS::Lambda::Function DeadLetterConfig",
    "AWS::Lambda::Function ReservedConcurrentExecutions",
    "AWS::S3::Bucket LifecycleConfiguration",
    "AWS::S3::Bucket Tags",
    "AWS::SNS::Topic KmsMasterKeyId",
    "AWS::Scheduler::Schedule ScheduleExpressionTimezone",
}
"""What its CloudFormation leaves out, and says to have created."""
SETTINGS = {
    "functions": {"depot/orders": {"reserved": 20, "concurrency": 10}},
    "tags": {"team": "depot"},
    "exports": ["depot/moves"],
    "alarm_email": "ops@depot.example",
    "uploads": None,
}


@pytest.fixture
def deployed(aws: Ministack, stack: str) -> Iterator[Deployed]:
    config = msgspec.convert(
        {
            "apps": ["tests.deploy.depot"],
            "aws": {"stack": stack, **SETTINGS},
            "cors": {"origins": ["https://depot.example"]},
        },
        Config,
        strict=False,
    )
    app = app_of("depot")
    app.handlers = {name: spec for name, spec in app.handlers.items() if not spec.in_process}
    template = without_metric_math(to_cloudformation(synthesize(build_graph([app]), config)))
    cloud = Cloud()
    try:
        deploy(cloud, stack, json.dumps(template))
        yield Deployed(template, cloud, stack)
    finally:
        cloud.close()


def deploy(cloud: Cloud, stack: str, template: str) -> None:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as package:
        package.writestr("empty.txt", "")
    cloud.call(
        "s3", "create_bucket", Bucket=f"{stack}-code", CreateBucketConfiguration={"LocationConstraint": cloud.region}
    )
    cloud.call("s3", "put_object", Bucket=f"{stack}-code", Key="code.zip", Body=code.getvalue())
    cloud.call("s3", "put_object", Bucket=f"{stack}-code", Key="template.json", Body=template.encode())
    given = {"CodeBucket": f"{stack}-code", "CodeKey": "code.zip", "HttpCodeKey": "code.zip"}
    cloud.call(
        "cloudformation",
        "create_stack",
        StackName=stack,
        TemplateURL=f"{os.environ['AWS_ENDPOINT_URL']}/{stack}-code/template.json",
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
    )
    end = time.monotonic() + PATIENCE_S
    while (status := cloud.call("cloudformation", "describe_stacks", StackName=stack)["Stacks"][0])[
        "StackStatus"
    ] == "CREATE_IN_PROGRESS":
        assert time.monotonic() < end, "the stack is not ready"
        time.sleep(0.05)
    assert status["StackStatus"] == "CREATE_COMPLETE", failures(cloud, stack)


def failures(cloud: Cloud, stack: str) -> list[str]:
    pages = cloud.pages("cloudformation", "describe_stack_events", StackName=stack)
    events = [event for page in pages for event in page["StackEvents"] if event["ResourceStatus"].endswith("FAILED")]
    return [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}" for event in events]


def without_metric_math(template: Template) -> Template:
    """Alarms of several figures, of which ministack knows nothing, become those of the first."""
    for resource in template["Resources"].values():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in properties:
            figure = next(one["MetricStat"] for one in properties.pop("Metrics") if "MetricStat" in one)
            properties |= {**figure["Metric"], "Statistic": figure["Stat"], "Period": figure["Period"]}
    return template


def test_everything_is_as_the_template_says(deployed: Deployed, stack: str) -> None:
    assert set(deployed.differences()) == PASSED_OVER, "\n".join(deployed.told)
    spoil(deployed, stack)
    assert set(deployed.differences()) - PASSED_OVER == {
        "AWS::SQS::Queue VisibilityTimeout",
        "AWS::DynamoDB::Table StreamSpecification",
        "AWS::IAM::Role Policies",
    }


def spoil(deployed: Deployed, stack: str) -> None:
    """Change something by hand: a comparison that sees nothing of it would prove nothing."""
    queue = deployed.resolve({"Ref": "DepotHeavyQueue"})
    table = deployed.resources["DepotParcelsTable"]["Properties"]["TableName"]
    off = {"StreamEnabled": False}
    deployed.cloud.call("sqs", "set_queue_attributes", QueueUrl=queue, Attributes={"VisibilityTimeout": "31"})
    deployed.cloud.call("dynamodb", "update_table", TableName=table, StreamSpecification=off)
    deployed.cloud.call("iam", "delete_role_policy", RoleName=f"{stack}-headwater-relay", PolicyName="runtime")
