"""What cfn-lint does not look at: our own rules for templates. Each yields what is wrong, with the resource's id."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.aws.sns_rules import combinations, key_count
from tests.deploy.resolving import Resolver, Template, Unresolved, many, policies

Rule = Callable[[Resolver], Iterator[str]]
RULES: list[Rule] = []
OPERATORS = {"prefix", "suffix", "equals-ignore-case", "anything-but", "numeric", "exists", "cidr", "wildcard"}
MISSING = {"notBreaching", "breaching", "ignore", "missing"}
ROOM = 10_240
ANY_RESOURCE = {
    "ecr:GetAuthorizationToken": "it knows no resources",
    "ec2:AssignPrivateIpAddresses": "Lambda asks for these itself to enter a network",
    "ec2:CreateNetworkInterface": "as above",
    "ec2:DeleteNetworkInterface": "as above",
    "ec2:DescribeNetworkInterfaces": "as above",
    "ec2:DescribeSubnets": "as above",
    "ec2:UnassignPrivateIpAddresses": "as above",
    "xray:PutTelemetryRecords": "X-Ray knows no resources here",
    "xray:PutTraceSegments": "as above",
}
"""The only actions on every resource, and why."""
PATTERNS = {
    r"arn:aws:logs:[^:]+:\d+:log-group:[^*]+:\*": "the streams of a log group get their names from AWS",
    r"arn:aws:s3:::[^*]+/\*": "the objects of a bucket",
    r"arn:aws:s3:::[^*]+/\$\{aws:PrincipalTag/owner\}/\*": "the objects below a user's own prefix",
    r"arn:aws:scheduler:[^*]+:schedule/[^*]+/later-\*": "one-time schedules are named by their messages",
    r"arn:aws:dynamodb:[^*]+/stream/\*": "the stream of a table that exists already has its time in its name",
    r"arn:aws:secretsmanager:[^*?]+-\?{6}": "Secrets Manager adds six characters of its own",
}
"""The only patterns in resources, and why."""


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def problems(template: Template) -> list[str]:
    resolver = Resolver(template)
    try:
        return [f"{check.__name__}: {problem}" for check in RULES for problem in check(resolver)]
    except Unresolved as error:
        return [f"reference: {error} is not in the template"]


@rule
def references_exist(resolver: Resolver) -> Iterator[str]:
    for id, resource in resolver.resources.items():
        resolver.resolve(resource)
        for other in resource.get("DependsOn", ()):
            if other not in resolver.resources:
                yield f"{id} comes after {other}, which is not there"


@rule
def schedules_are_understood(resolver: Resolver) -> Iterator[str]:
    for id, schedule in resolver.of_type("AWS::Scheduler::Schedule"):
        expression = schedule["ScheduleExpression"]
        cron = re.fullmatch(r"cron\((.*)\)", expression)
        if cron:
            fields = cron[1].split()
            if len(fields) != 6 or "?" not in (fields[2], fields[4]):
                yield f"{id}: {expression} has not six fields of which one day is ?"
        elif not re.fullmatch(r"rate\([1-9]\d* (minute|hour|day)s?\)|at\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\)", expression):
            yield f"{id}: {expression} is no expression of EventBridge Scheduler"
        json.loads(schedule["Target"]["Input"])


@rule
def filters_are_json(resolver: Resolver) -> Iterator[str]:
    for id, subscription in resolver.of_type("AWS::SNS::Subscription"):
        if "FilterPolicy" in subscription:
            if not isinstance(subscription["FilterPolicy"], dict) or not subscription["FilterPolicy"]:
                yield f"{id}: the filter policy is no JSON object"
            if subscription.get("FilterPolicyScope") != "MessageBody":
                yield f"{id}: the filter policy is not on the body"


@rule
def filters_are_small(resolver: Resolver) -> Iterator[str]:
    for id, subscription in resolver.of_type("AWS::SNS::Subscription"):
        policy = subscription.get("FilterPolicy")
        if isinstance(policy, dict):
            if key_count(policy) > 5 or combinations(policy) > 150:
                yield f"{id}: {key_count(policy)} keys and {combinations(policy)} combinations, 5 and 150 are allowed"
            yield from (f"{id}: {problem}" for problem in _operators(policy))


def _operators(policy: dict[str, Any]) -> Iterator[str]:
    for name, spec in policy.items():
        if isinstance(spec, dict):
            yield from _operators(spec)
        elif not isinstance(spec, list):
            yield f"{name}: the alternatives are no list"
        else:
            unknown = {key for one in spec if isinstance(one, dict) for key in one} - OPERATORS
            yield from (f"{name}: there is no operator {key}" for key in sorted(unknown))


@rule
def sources_start_right(resolver: Resolver) -> Iterator[str]:
    for id, source in resolver.of_type("AWS::Lambda::EventSourceMapping"):
        is_queue = ":sqs:" in str(source["EventSourceArn"])
        if is_queue == ("StartingPosition" in source):
            yield f"{id}: a starting position is for streams, and only for them"
        if source.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{id}: it does not take partial failures"
        if not is_queue and not (source.get("BisectBatchOnFunctionError") and source.get("DestinationConfig")):
            yield f"{id}: what fails in the stream holds it up for a day, and then is lost"


@rule
def batches_fit(resolver: Resolver) -> Iterator[str]:
    for id, source in resolver.of_type("AWS::Lambda::EventSourceMapping"):
        window, batch = source.get("MaximumBatchingWindowInSeconds", 0), source["BatchSize"]
        if ":sqs:" not in str(source["EventSourceArn"]):
            continue
        if source["EventSourceArn"].endswith(".fifo") and (window or batch > 10):
            yield f"{id}: a FIFO queue takes no window, and 10 messages at the most"
        if batch > 10 and not window:
            yield f"{id}: {batch} messages need a window"
        if not 2 <= source.get("ScalingConfig", {}).get("MaximumConcurrency", 2) <= 1000:
            yield f"{id}: the maximum concurrency is 2 to 1000"


@rule
def messages_stay_hidden(resolver: Resolver) -> Iterator[str]:
    queues = {resolver.resolve({"Fn::GetAtt": [id, "Arn"]}): queue for id, queue in resolver.of_type("AWS::SQS::Queue")}
    functions = resolver.of_type("AWS::Lambda::Function")
    by_arn = {resolver.resolve({"Fn::GetAtt": [id, "Arn"]}): function for id, function in functions}
    for id, source in resolver.of_type("AWS::Lambda::EventSourceMapping"):
        queue, function = queues.get(source["EventSourceArn"]), by_arn.get(source["FunctionName"])
        if queue and function and queue["VisibilityTimeout"] < 6 * function["Timeout"]:
            yield f"{id}: {queue['VisibilityTimeout']} s are less than 6 times {function['Timeout']} s"


@rule
def actions_are_named(resolver: Resolver) -> Iterator[str]:
    for id, document in policies(resolver):
        for statement in document["Statement"]:
            if statement["Effect"] == "Allow":
                yield from (f"{id}: {action}" for action in many(statement["Action"]) if "*" in action or "?" in action)


@rule
def resources_are_arns(resolver: Resolver) -> Iterator[str]:
    for id, document in policies(resolver):
        for statement in document["Statement"]:
            yield from (f"{id}: {problem}" for problem in _resource_problems(statement))


def _resource_problems(statement: dict[str, Any]) -> Iterator[str]:
    for resource in many(statement["Resource"]):
        if resource == "*":
            excess = [action for action in many(statement["Action"]) if action not in ANY_RESOURCE]
            yield from (f"{action} on every resource" for action in excess)
        elif not re.fullmatch(r"arn:aws:[a-z0-9-]+:[^:]*:\d*:.+", resource):
            yield f"{resource!r} is no ARN"
        elif re.search(r"[*?]", resource) and not any(re.fullmatch(pattern, resource) for pattern in PATTERNS):
            yield f"the pattern {resource}"


@rule
def policies_fit(resolver: Resolver) -> Iterator[str]:
    for id, document in policies(resolver):
        size = len(json.dumps(document, separators=(",", ":")))
        if size > ROOM:
            yield f"{id}: {size} characters, {ROOM} are allowed"


@rule
def all_is_tls(resolver: Resolver) -> Iterator[str]:
    kinds = (
        ("AWS::SQS::Queue", "AWS::SQS::QueuePolicy", lambda policy: policy["Queues"]),
        ("AWS::SNS::Topic", "AWS::SNS::TopicPolicy", lambda policy: policy["Topics"]),
        ("AWS::S3::Bucket", "AWS::S3::BucketPolicy", lambda policy: [policy["Bucket"]]),
    )
    for kind, policy_kind, targets in kinds:
        found = [
            target
            for _, policy in resolver.of_type(policy_kind)
            if any(_refuses_plain(statement) for statement in policy["PolicyDocument"]["Statement"])
            for target in targets(policy)
        ]
        for id, _ in resolver.of_type(kind):
            if resolver.resolve({"Ref": id}) not in found:
                yield f"{id} may be reached without TLS"


def _refuses_plain(statement: dict[str, Any]) -> bool:
    plain = {"Bool": {"aws:SecureTransport": "false"}}
    found = (statement["Effect"], statement.get("Condition"), statement["Principal"])
    return found == ("Deny", plain, "*")


@rule
def logs_end(resolver: Resolver) -> Iterator[str]:
    groups = {group["LogGroupName"]: group for _, group in resolver.of_type("AWS::Logs::LogGroup")}
    for name, group in groups.items():
        if not group.get("RetentionInDays"):
            yield f"{name} is kept for ever"
    for id, function in resolver.of_type("AWS::Lambda::Function"):
        if f"/aws/lambda/{function['FunctionName']}" not in groups:
            yield f"{id} has a log that nobody declared"


@rule
def data_is_safe(resolver: Resolver) -> Iterator[str]:
    for id, table in resolver.of_type("AWS::DynamoDB::Table"):
        if not table.get("SSESpecification", {}).get("SSEEnabled"):
            yield f"{id} is not encrypted"
        if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{id} has no recovery"
    for id, queue in resolver.of_type("AWS::SQS::Queue"):
        if not queue.get("SqsManagedSseEnabled"):
            yield f"{id} is not encrypted"
    for id, topic in resolver.of_type("AWS::SNS::Topic"):
        if not topic.get("KmsMasterKeyId"):
            yield f"{id} is not encrypted"
    for id, bucket in resolver.of_type("AWS::S3::Bucket"):
        closed = bucket.get("PublicAccessBlockConfiguration", {})
        if list(closed.values()) != [True] * 4:
            yield f"{id} may be opened to the public"
        if not bucket.get("BucketEncryption"):
            yield f"{id} is not encrypted"


@rule
def queues_have_an_end(resolver: Resolver) -> Iterator[str]:
    queues = dict(resolver.of_type("AWS::SQS::Queue"))
    dead = {
        many(queue["RedrivePolicy"]["deadLetterTargetArn"])[0] for queue in queues.values() if "RedrivePolicy" in queue
    }
    sources = {source["EventSourceArn"] for _, source in resolver.of_type("AWS::Lambda::EventSourceMapping")}
    for id, queue in queues.items():
        arn = resolver.resolve({"Fn::GetAtt": [id, "Arn"]})
        if arn in sources and arn not in dead and "RedrivePolicy" not in queue:
            yield f"{id} is consumed and has no dead-letter queue"
        if not 1 <= queue.get("RedrivePolicy", {}).get("maxReceiveCount", 1) <= 1000:
            yield f"{id}: a message is received 1 to 1000 times"
        if queue["QueueName"].endswith(".fifo") != bool(queue.get("FifoQueue")):
            yield f"{id}: its name does not say that it is FIFO"


@rule
def alarms_are_sound(resolver: Resolver) -> Iterator[str]:
    for id, alarm in resolver.of_type("AWS::CloudWatch::Alarm"):
        if alarm.get("TreatMissingData") not in MISSING:
            yield f"{id} does not say what missing data is"
        described = alarm.get("AlarmDescription", "")
        if "dead-letters" in described and alarm["TreatMissingData"] != "notBreaching":
            yield f"{id}: no data means no dead letters"
        if not alarm["AlarmActions"]:
            yield f"{id} tells nobody"


@rule
def callers_are_known(resolver: Resolver) -> Iterator[str]:
    for id, permission in resolver.of_type("AWS::Lambda::Permission"):
        if not permission.get("SourceArn"):
            yield f"{id}: {permission['Principal']} may call for anybody"
        if not permission["FunctionName"].startswith(("arn:aws:lambda:", "shop-")):
            yield f"{id}: there is no function {permission['FunctionName']}"


@rule
def apis_are_throttled(resolver: Resolver) -> Iterator[str]:
    for id, stage in resolver.of_type("AWS::ApiGatewayV2::Stage"):
        settings = stage.get("DefaultRouteSettings", {})
        if not (settings.get("ThrottlingRateLimit") and settings.get("ThrottlingBurstLimit")):
            yield f"{id} is not throttled"
        if not stage.get("AccessLogSettings"):
            yield f"{id} has no access log"


@rule
def nothing_is_of_one_account(resolver: Resolver) -> Iterator[str]:
    text = json.dumps(resolver.resources)
    for found in re.finditer(r"arn:aws[a-z-]*:[a-z0-9-]+:([a-z]{2}-[a-z]+-\d)?:(\d{12})?:(?!oidc-provider|root)", text):
        if found[1] or found[2]:
            yield f"{found[0]}… is of one account or region"
