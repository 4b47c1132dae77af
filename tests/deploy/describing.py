"""What AWS says of a deployed stack's resources, in the words of the template: to be compared, property by property.

"CREATE_COMPLETE" proves nothing on a stand-in: it says so of resources and properties that it has passed over, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from headwater.deploy.cloud import Cloud, CloudRefused
from tests.deploy.resolving import Resolver, Template

Properties = dict[str, Any]
Describer = Callable[[Cloud, Properties, str], Properties]


class Deployed(Resolver):
    """A template whose references are what the stack's resources are called."""

    def __init__(self, template: Template, cloud: Cloud, stack: str) -> None:
        super().__init__(template)
        self.cloud = cloud
        self.told: list[str] = []
        pages = cloud.pages("cloudformation", "list_stack_resources", StackName=stack)
        found = [one for page in pages for one in page["StackResourceSummaries"]]
        self.physical = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found}
        present = cloud.call("cloudformation", "describe_stacks", StackName=stack)["Stacks"][0]
        self.given = {one["ParameterKey"]: one["ParameterValue"] for one in present["Parameters"]}

    def _ref(self, id: str) -> Any:
        if id in self.given:
            return self.given[id]
        return super()._ref(id) if id not in self.resources else self.physical[id]

    def _attribute(self, id: str, attribute: str) -> Any:
        if attribute == "StreamArn":
            name = self.resources[id]["Properties"]["TableName"]
            return self.cloud.call("dynamodb", "describe_table", TableName=name)["Table"]["LatestStreamArn"]
        if self.resources[id]["Type"] == "AWS::KMS::Key":
            return self.cloud.call("kms", "describe_key", KeyId=self.physical[id])["KeyMetadata"]["Arn"]
        if attribute == "ApiEndpoint":
            return self.cloud.call("apigatewayv2", "get_api", ApiId=self.physical[id])["ApiEndpoint"]
        return super()._attribute(id, attribute)

    def differences(self) -> Iterator[str]:
        """ "type property" of each that is not as the template says."""
        for id, resource in sorted(self.resources.items()):
            type_ = resource["Type"]
            if id not in self.physical:
                yield f"{type_} is not there"
                continue
            properties = self.resolve(resource["Properties"])
            described = DESCRIBERS[type_](self.cloud, properties, self.physical[id])
            for name, wanted in properties.items():
                found = _without_theirs(described.get(name)) if name == "Tags" else described.get(name)
                if normal(found) != normal(wanted):
                    self.told.append(f"{id} {name}: {found!r} is not {wanted!r}")
                    yield f"{type_} {name}"


def normal(value: Any) -> Any:
    """Without the order of lists, and numbers as they are written."""
    if isinstance(value, dict):
        return {key: normal(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return sorted((normal(one) for one in value), key=lambda one: json.dumps(one, sort_keys=True))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{float(value):g}" if isinstance(value, int | float) else value


def _without_theirs(tags: Any) -> Any:
    """CloudFormation adds tags of its own."""
    if isinstance(tags, dict):
        return {key: value for key, value in tags.items() if not key.startswith("aws:")}
    return [tag for tag in tags or () if not tag["Key"].startswith("aws:")]


def _tags(found: Any) -> Any:
    return [{"Key": one["Key"], "Value": one["Value"]} for one in found]


def _table(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    name = wanted["TableName"]
    found = cloud.call("dynamodb", "describe_table", TableName=name)["Table"]
    ttl = cloud.call("dynamodb", "describe_time_to_live", TableName=name)["TimeToLiveDescription"]
    backups = cloud.call("dynamodb", "describe_continuous_backups", TableName=name)["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    indexes = [
        {key: index[key] for key in ("IndexName", "KeySchema", "Projection")}
        for index in found.get("GlobalSecondaryIndexes", ())
    ]
    tags = cloud.call("dynamodb", "list_tags_of_resource", ResourceArn=found["TableArn"])["Tags"]
    return {
        "TableName": found["TableName"],
        "KeySchema": found["KeySchema"],
        "AttributeDefinitions": found["AttributeDefinitions"],
        "BillingMode": found.get("BillingModeSummary", {}).get("BillingMode"),
        "GlobalSecondaryIndexes": indexes,
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": recovery == "ENABLED"},
        "SSESpecification": {"SSEEnabled": found.get("SSEDescription", {}).get("Status") == "ENABLED"},
        "StreamSpecification": {"StreamViewType": found.get("StreamSpecification", {}).get("StreamViewType")},
        "TimeToLiveSpecification": {
            "AttributeName": ttl.get("AttributeName"),
            "Enabled": ttl["TimeToLiveStatus"] in ("ENABLED", "ENABLING"),
        },
        "Tags": _tags(tags),
    }


def _bucket(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    def ask(operation: str, key: str) -> Any:
        try:
            return cloud.call("s3", operation, Bucket=physical).get(key, [])
        except CloudRefused as refused:  # S3's way to say that there is none
            if "NoSuch" not in refused.message and "NotFound" not in refused.message:
                raise
            return {}

    lifecycle = [
        {
            "Id": rule["ID"],
            "Status": rule["Status"],
            **{name: rule[name] for name in ("AbortIncompleteMultipartUpload",) if name in rule},
            **({"ExpirationInDays": rule["Expiration"]["Days"]} if "Expiration" in rule else {}),
        }
        for rule in ask("get_bucket_lifecycle_configuration", "Rules")
    ]
    found: Properties = {
        "BucketName": physical,
        "BucketEncryption": {
            "ServerSideEncryptionConfiguration": [
                {"ServerSideEncryptionByDefault": rule["ApplyServerSideEncryptionByDefault"]}
                for rule in ask("get_bucket_encryption", "ServerSideEncryptionConfiguration").get("Rules", ())
            ]
        },
        "OwnershipControls": ask("get_bucket_ownership_controls", "OwnershipControls"),
        "PublicAccessBlockConfiguration": ask("get_public_access_block", "PublicAccessBlockConfiguration"),
        "LifecycleConfiguration": {"Rules": lifecycle},
        "Tags": ask("get_bucket_tagging", "TagSet"),
    }
    if "NotificationConfiguration" in wanted:
        calls = ask("get_bucket_notification_configuration", "LambdaFunctionConfigurations")
        found["NotificationConfiguration"] = {
            "LambdaConfigurations": [
                {"Event": event, "Function": one["LambdaFunctionArn"]} for one in calls for event in one["Events"]
            ]
        }
    if "CorsConfiguration" in wanted:
        names = {"ExposeHeaders": "ExposedHeaders", "MaxAgeSeconds": "MaxAge"}
        rules = ask("get_bucket_cors", "CORSRules")
        found["CorsConfiguration"] = {
            "CorsRules": [{names.get(key, key): value for key, value in rule.items()} for rule in rules]
        }
    return found


def _bucket_policy(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("s3", "get_bucket_policy", Bucket=wanted["Bucket"])["Policy"]
    return {"Bucket": wanted["Bucket"], "PolicyDocument": json.loads(found)}


def _queue(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("sqs", "get_queue_attributes", QueueUrl=physical, AttributeNames=["All"])["Attributes"]
    tags = cloud.call("sqs", "list_queue_tags", QueueUrl=physical).get("Tags", {})
    return {
        **{name: _read(value) for name, value in found.items()},
        "QueueName": physical.rpartition("/")[2],
        "RedrivePolicy": json.loads(found.get("RedrivePolicy", "{}")),
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _read(text: str) -> Any:
    return int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)


def _queue_policy(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    (queue,) = wanted["Queues"]
    found = cloud.call("sqs", "get_queue_attributes", QueueUrl=queue, AttributeNames=["Policy"])
    return {"Queues": [queue], "PolicyDocument": json.loads(found["Attributes"]["Policy"])}


def _topic(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("sns", "get_topic_attributes", TopicArn=physical)["Attributes"]
    tags = cloud.call("sns", "list_tags_for_resource", ResourceArn=physical).get("Tags", [])
    return {
        "TopicName": physical.rpartition(":")[2],
        "KmsMasterKeyId": found.get("KmsMasterKeyId"),
        "Tags": _tags(tags),
    }


def _topic_policy(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    (topic,) = wanted["Topics"]
    found = cloud.call("sns", "get_topic_attributes", TopicArn=topic)["Attributes"]
    return {"Topics": [topic], "PolicyDocument": json.loads(found["Policy"])}


def _subscription(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("sns", "get_subscription_attributes", SubscriptionArn=physical)["Attributes"]
    all_ = cloud.call("sns", "list_subscriptions_by_topic", TopicArn=wanted["TopicArn"])["Subscriptions"]
    listed = next(one for one in all_ if one["SubscriptionArn"] == physical)
    return {
        **found,
        **listed,
        "RawMessageDelivery": _read(found.get("RawMessageDelivery", "false")),
        "FilterPolicy": json.loads(found.get("FilterPolicy") or "null"),
    }


def _log_group(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    name = wanted["LogGroupName"]
    groups = cloud.call("logs", "describe_log_groups", logGroupNamePrefix=name)["logGroups"]
    found = next(one for one in groups if one["logGroupName"] == name)
    tags = cloud.call("logs", "list_tags_log_group", logGroupName=name)["tags"]
    return {
        "LogGroupName": name,
        "RetentionInDays": found.get("retentionInDays"),
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _role(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("iam", "get_role", RoleName=physical)["Role"]
    names = cloud.call("iam", "list_role_policies", RoleName=physical)["PolicyNames"]
    documents = {
        name: cloud.call("iam", "get_role_policy", RoleName=physical, PolicyName=name)["PolicyDocument"]
        for name in names
    }
    return {
        "RoleName": found["RoleName"],
        "AssumeRolePolicyDocument": found["AssumeRolePolicyDocument"],
        "Policies": [{"PolicyName": name, "PolicyDocument": document} for name, document in documents.items()],
        "Tags": _tags(found.get("Tags", ())),
    }


def _function(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    answer = cloud.call("lambda", "get_function", FunctionName=physical)
    found = answer["Configuration"]
    reserved = answer.get("Concurrency", {}).get("ReservedConcurrentExecutions")
    return {
        **found,
        "Code": wanted["Code"] if found["CodeSize"] else None,
        "ReservedConcurrentExecutions": reserved,
        "Tags": [{"Key": key, "Value": value} for key, value in answer.get("Tags", {}).items()],
    }


def _event_source(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("lambda", "get_event_source_mapping", UUID=physical)
    name = found["FunctionArn"].rpartition("function:")[2]
    tags = cloud.call("lambda", "list_tags", Resource=found["EventSourceMappingArn"])["Tags"]
    return {
        **found,
        "FunctionName": found["FunctionArn"] if ":" in wanted["FunctionName"] else name,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _permission(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    policy = json.loads(cloud.call("lambda", "get_policy", FunctionName=wanted["FunctionName"])["Policy"])
    for statement in policy["Statement"]:
        conditions = statement.get("Condition", {})
        flat = {key.lower(): value for keys in conditions.values() for key, value in keys.items()}
        found = {
            "Action": statement["Action"],
            "FunctionName": wanted["FunctionName"],
            "Principal": statement["Principal"].get("Service"),
            "SourceArn": flat.get("aws:sourcearn"),
            "SourceAccount": flat.get("aws:sourceaccount"),
        }
        if found["Principal"] == wanted["Principal"] and found["SourceArn"] == wanted["SourceArn"]:
            return found
    return {}


def _group(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("scheduler", "get_schedule_group", Name=wanted["Name"])
    tags = cloud.call("scheduler", "list_tags_for_resource", ResourceArn=found["Arn"])["Tags"]
    return {"Name": found["Name"], "Tags": _tags(tags)}


def _schedule(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found: Properties = cloud.call("scheduler", "get_schedule", Name=wanted["Name"], GroupName=wanted["GroupName"])
    target = {name: found["Target"].get(name) for name in wanted["Target"]}
    return {**found, "Target": target}


def _alarm(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    (found,) = cloud.call("cloudwatch", "describe_alarms", AlarmNames=[wanted["AlarmName"]])["MetricAlarms"]
    tags = cloud.call("cloudwatch", "list_tags_for_resource", ResourceARN=found["AlarmArn"])["Tags"]
    return {**found, "Tags": _tags(tags)}


def _api(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    return dict(cloud.call("apigatewayv2", "get_api", ApiId=physical))


def _integration(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    items = cloud.call("apigatewayv2", "get_integrations", ApiId=wanted["ApiId"])["Items"]
    return {"ApiId": wanted["ApiId"], **_like(items, "IntegrationUri", wanted)}


def _route(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    items = cloud.call("apigatewayv2", "get_routes", ApiId=wanted["ApiId"])["Items"]
    return {"ApiId": wanted["ApiId"], **_like(items, "RouteKey", wanted)}


def _like(items: list[Properties], name: str, wanted: Properties) -> Properties:
    return next((item for item in items if item[name] == wanted[name]), {})


def _stage(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("apigatewayv2", "get_stage", ApiId=wanted["ApiId"], StageName=wanted["StageName"])
    return {"ApiId": wanted["ApiId"], **found}


def _key(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("kms", "describe_key", KeyId=physical)["KeyMetadata"]
    policy = cloud.call("kms", "get_key_policy", KeyId=physical, PolicyName="default")["Policy"]
    tags = cloud.call("kms", "list_resource_tags", KeyId=physical)["Tags"]
    return {
        "Description": found["Description"],
        "EnableKeyRotation": cloud.call("kms", "get_key_rotation_status", KeyId=physical)["KeyRotationEnabled"],
        "KeyPolicy": json.loads(policy),
        "Tags": [{"Key": one["TagKey"], "Value": one["TagValue"]} for one in tags],
    }


def _parameter(cloud: Cloud, wanted: Properties, physical: str) -> Properties:
    found = cloud.call("ssm", "get_parameter", Name=wanted["Name"])["Parameter"]
    (listed,) = cloud.call(
        "ssm", "describe_parameters", ParameterFilters=[{"Key": "Name", "Values": [wanted["Name"]]}]
    )["Parameters"]
    tags = cloud.call("ssm", "list_tags_for_resource", ResourceType="Parameter", ResourceId=wanted["Name"])["TagList"]
    return {
        **found,
        "Description": listed.get("Description"),
        "Tags": {one["Key"]: one["Value"] for one in tags},
    }


DESCRIBERS: dict[str, Describer] = {
    "AWS::DynamoDB::Table": _table,
    "AWS::S3::Bucket": _bucket,
    "AWS::S3::BucketPolicy": _bucket_policy,
    "AWS::SQS::Queue": _queue,
    "AWS::SQS::QueuePolicy": _queue_policy,
    "AWS::SNS::Topic": _topic,
    "AWS::SNS::TopicPolicy": _topic_policy,
    "AWS::SNS::Subscription": _subscription,
    "AWS::Logs::LogGroup": _log_group,
    "AWS::IAM::Role": _role,
    "AWS::Lambda::Function": _function,
    "AWS::Lambda::EventSourceMapping": _event_source,
    "AWS::Lambda::Permission": _permission,
    "AWS::Scheduler::ScheduleGroup": _group,
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::ApiGatewayV2::Api": _api,
    "AWS::ApiGatewayV2::Integration": _integration,
    "AWS::ApiGatewayV2::Route": _route,
    "AWS::ApiGatewayV2::Stage": _stage,
    "AWS::KMS::Key": _key,
    "AWS::SSM::Parameter": _parameter,
}
