"""Bringing a stack to AWS and back: what is shown, done, undone and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from headwater.deploy.changes import Change, read_changes, summary
from headwater.deploy.cloud import Artifacts, Cloud, CloudRefused
from headwater.deploy.removal import Kept, delete_data, kept_data
from headwater.deploy.rollout import INLINE_BYTES, RolledBack, Rollout, StackEvent, settle, tell_each
from tests.aws.ministack import Ministack


def table(name: str, **more: Any) -> dict[str, Any]:
    return {
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            **more,
        },
    }


def bucket(stack: str) -> dict[str, Any]:
    name = {"Fn::Sub": f"{stack}-${{AWS::AccountId}}-${{AWS::Region}}"}
    return {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {"BucketName": name}}


def template(stack: str, **resources: Any) -> str:
    """A stack with a table and a bucket, which are kept, and a queue."""
    return json.dumps(
        {
            "Parameters": {"Delay": {"Type": "String"}, "Note": {"Type": "String", "Default": ""}},
            "Resources": {
                "Rows": table(f"{stack}-rows"),
                "Files": bucket(stack),
                "Queue": {
                    "Type": "AWS::SQS::Queue",
                    "Properties": {"QueueName": f"{stack}-jobs", "DelaySeconds": {"Ref": "Delay"}},
                },
                **resources,
            },
            "Outputs": {"Url": {"Value": {"Ref": "Queue"}}},
        }
    )


@pytest.fixture
def cloud(aws: Ministack) -> Iterator[Cloud]:
    made = Cloud()
    yield made
    made.close()


@pytest.fixture
def rollout(cloud: Cloud, stack: str) -> Rollout:
    artifacts = Artifacts(cloud)
    artifacts.prepare()
    return Rollout(cloud, artifacts, stack, poll_s=0.02)


def deploy(rollout: Rollout, text: str, **parameters: str) -> list[StackEvent]:
    told: list[StackEvent] = []
    rollout.execute(rollout.plan(text, parameters, {"team": "rows"}), told.append)
    return told


def test_a_stack_is_planned_made_changed_and_left_alone(rollout: Rollout, stack: str) -> None:
    planned = rollout.plan(template(stack), {"Delay": "1"}, {})
    assert planned.creates
    assert [change.line() for change in planned.changes] == [
        "+ DynamoDB::Table Rows",
        "+ S3::Bucket Files",
        "+ SQS::Queue Queue",
    ]
    told: list[StackEvent] = []
    outputs = rollout.execute(planned, told.append)
    assert outputs["Url"].endswith(f"/{stack}-jobs")
    assert (told[0].status, told[0].type) == ("CREATE_IN_PROGRESS", "AWS::CloudFormation::Stack")
    assert {event.resource for event in told if event.status == "CREATE_COMPLETE"} >= {"Rows", "Files", "Queue"}
    assert len({event.id for event in told}) == len(told)
    again = rollout.plan(template(stack), {}, {})
    assert (again.change_set, again.changes) == ("", ())
    changed = rollout.plan(template(stack), {"Delay": "2"}, {})
    assert not changed.creates
    assert [(change.action, change.id) for change in changed.changes] == [("Modify", "Queue")]
    rollout.discard(changed)
    assert rollout.plan(template(stack), {}, {}).change_set == "", "a discarded plan changed something"


def test_a_plan_that_is_discarded_leaves_no_stack(rollout: Rollout, stack: str) -> None:
    planned = rollout.plan(template(stack), {"Delay": "1"}, {})
    rollout.discard(planned)
    assert rollout.describe() is None


def test_the_first_failure_is_told_and_nothing_is_left(rollout: Rollout, cloud: Cloud, stack: str) -> None:
    figure = {"Id": "a", "Expression": "1"}  # ministack has no metric math
    broken = {
        "Type": "AWS::CloudWatch::Alarm",
        "DependsOn": ["Rows", "Queue"],
        "Properties": {"Metrics": [figure], "ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1},
    }
    with pytest.raises(RolledBack, match=r"Broken \(AWS::CloudWatch::Alarm\) failed first: .*is ROLLBACK_COMPLETE"):
        deploy(rollout, template(stack, Broken=broken), Delay="1")
    tables = cloud.call("dynamodb", "list_tables")["TableNames"]
    assert f"{stack}-rows" not in tables
    deploy(rollout, template(stack), Delay="1")
    assert rollout.outputs()


def test_what_was_cancelled_did_not_fail_first() -> None:
    def event(resource: str, status: str, reason: str = "") -> StackEvent:
        return StackEvent(resource, datetime(2026, 1, 1, tzinfo=UTC), resource, "AWS::SQS::Queue", status, reason)

    events = [
        event("Fine", "CREATE_COMPLETE"),
        event("Cut", "CREATE_FAILED", "Resource creation cancelled"),
        event("Culprit", "CREATE_FAILED", "no such key"),
        event("Later", "CREATE_FAILED", "Culprit is not there"),
    ]
    told: list[StackEvent] = []
    assert tell_each(events, told.append) == events[2]
    assert told == events
    assert tell_each(events[:2], told.append) is None


def test_data_outlives_the_stack_and_is_taken_in_again(rollout: Rollout, cloud: Cloud, stack: str) -> None:
    deploy(rollout, template(stack), Delay="1")
    cloud.call("dynamodb", "put_item", TableName=f"{stack}-rows", Item={"pk": {"S": "a"}})
    files = f"{stack}-{cloud.account}-{cloud.region}"
    cloud.call("s3", "put_object", Bucket=files, Key="a", Body=b"1")
    rollout.delete(lambda event: None)
    assert rollout.describe() is None
    assert cloud.call("s3", "get_object", Bucket=files, Key="a")["Body"].read() == b"1"
    planned = rollout.plan(template(stack), {"Delay": "1"}, {})
    imported = {("Import", "Rows"), ("Import", "Files"), ("Add", "Queue")}
    assert {(change.action, change.id) for change in planned.changes} == imported
    rollout.discard(planned)
    assert cloud.call("s3", "get_object", Bucket=files, Key="a")["Body"].read() == b"1"
    assert list(delete_data(cloud, [Kept("AWS::S3::Bucket", files)]))  # ministack takes in tables alone
    deploy(rollout, template(stack), Delay="1")
    assert cloud.call("dynamodb", "scan", TableName=f"{stack}-rows")["Count"] == 1


def test_what_aws_refuses_before_it_begins_is_told_in_its_words(rollout: Rollout, cloud: Cloud, stack: str) -> None:
    place = {"LocationConstraint": cloud.region}
    cloud.call("s3", "create_bucket", Bucket=f"{stack}-taken", CreateBucketConfiguration=place)
    other = {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {"BucketName": f"{stack}-taken"}}
    with pytest.raises(RolledBack, match=r"Other \(AWS::S3::Bucket\) failed first: .*already exists"):
        deploy(rollout, template(stack, Other=other), Delay="1")


def test_data_is_deleted_when_somebody_says_so(rollout: Rollout, cloud: Cloud, stack: str) -> None:
    deploy(rollout, template(stack), Delay="1")
    files = f"{stack}-{cloud.account}-{cloud.region}"
    cloud.call("s3", "put_bucket_versioning", Bucket=files, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        cloud.call("s3", "put_object", Bucket=files, Key="a", Body=body)
    cloud.call("s3", "delete_object", Bucket=files, Key="a")
    found = kept_data(rollout)
    assert found == [Kept("AWS::DynamoDB::Table", f"{stack}-rows"), Kept("AWS::S3::Bucket", files)]
    rollout.delete(lambda event: None)
    assert list(delete_data(cloud, found)) == found
    assert list(delete_data(cloud, found)) == []
    assert f"{stack}-rows" not in cloud.call("dynamodb", "list_tables")["TableNames"]
    with pytest.raises(CloudRefused):
        cloud.call("s3", "head_bucket", Bucket=files)


def test_a_template_too_long_for_a_request_goes_by_the_bucket(rollout: Rollout, stack: str) -> None:
    long = {f"Topic{n}": {"Type": "AWS::SNS::Topic", "Properties": {"DisplayName": "x" * 90}} for n in range(400)}
    text = template(stack, **long)
    assert len(text) > INLINE_BYTES
    assert len(rollout.plan(text, {"Delay": "1"}, {}).changes) == 403


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "the parameter Delay needs a value"), ({"Delay": "1", "Dleay": "2"}, "no parameter 'Dleay'")],
)
def test_parameters_are_checked_before_aws_is_asked(
    rollout: Rollout, stack: str, given: dict[str, str], told: str
) -> None:
    with pytest.raises(CloudRefused, match=told):
        rollout.plan(template(stack), given, {})
    assert rollout.describe() is None


def test_the_bucket_of_packages_is_private_and_takes_each_package_once(cloud: Cloud, tmp_path: Any) -> None:
    artifacts = Artifacts(cloud, "headwater-own-packages")
    artifacts.prepare()
    artifacts.prepare()
    block = cloud.call("s3", "get_public_access_block", Bucket=artifacts.name)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    policy = json.loads(cloud.call("s3", "get_bucket_policy", Bucket=artifacts.name)["Policy"])
    assert policy["Statement"][0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    package = tmp_path / "p.zip"
    package.write_bytes(b"PK")
    assert artifacts.upload(package, "packages/a.zip")
    assert not artifacts.upload(package, "packages/a.zip")


def test_what_loses_data_comes_first_and_is_shouted() -> None:
    def one(action: str, id: str, type_: str, **more: Any) -> dict[str, Any]:
        change = {"Action": action, "LogicalResourceId": id, "ResourceType": f"AWS::{type_}", **more}
        return {"Type": "Resource", "ResourceChange": change}

    details = [{"Target": {"Attribute": "Properties", "Name": "KeySchema"}}, {"Target": {"Attribute": "Tags"}}]
    found = read_changes(
        [
            one("Add", "New", "SQS::Queue"),
            one("Modify", "Code", "Lambda::Function", Replacement="Conditional"),
            one("Modify", "Rows", "DynamoDB::Table", Replacement="True", Details=details),
            one("Remove", "Old", "S3::Bucket", PolicyAction="Retain"),
            {"Type": "Hook"},
        ]
    )
    assert [change.line() for change in found] == [
        "- S3::Bucket Old  leaves the stack, and is kept  THE DATA STAYS BEHIND",
        "~ DynamoDB::Table Rows  (KeySchema, Tags)  is replaced by a new one  THE DATA STAYS BEHIND",
        "~ Lambda::Function Code  may be replaced by a new one",
        "+ SQS::Queue New",
    ]
    assert summary(found) == "1 added, 2 changed, 1 removed"
    assert summary([]) == "nothing changes"
    assert not Change("Modify", "Rows", "AWS::DynamoDB::Table").loses_data


def test_only_names_of_buckets_are_spelt_out() -> None:
    given = {
        "Resources": {
            "Files": {
                "Type": "AWS::S3::Bucket",
                "Properties": {"BucketName": {"Fn::Sub": "f-${AWS::AccountId}-${AWS::Region}"}},
            },
            "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": {"Fn::Sub": "q-${AWS::Region}"}}},
        }
    }
    settled = json.loads(settle(json.dumps(given), "123456789012", "eu-west-1"))["Resources"]
    assert settled["Files"]["Properties"]["BucketName"] == "f-123456789012-eu-west-1"
    assert settled["Queue"] == given["Resources"]["Queue"]
