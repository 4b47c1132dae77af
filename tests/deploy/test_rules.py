"""Our own rules: the templates of the applications keep them, and each finds what is wrong in one that does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from headwater.deploy.cloudformation import to_cloudformation
from tests.deploy.applications import ALL, stack_of
from tests.deploy.rules import RULES, problems

Template = dict[str, Any]


@cache
def template_of(name: str) -> Template:
    return to_cloudformation(stack_of(name))


@pytest.mark.parametrize("name", ALL)
def test_the_templates_keep_the_rules(name: str) -> None:
    assert problems(template_of(name)) == []


def first(template: Template, type_: str, having: str = "") -> dict[str, Any]:
    """The properties of the first resource of a type, of those that have a property."""
    return next(
        resource["Properties"]
        for _, resource in sorted(template["Resources"].items())
        if resource["Type"] == type_ and (not having or having in resource["Properties"])
    )


def role_of_the_relay(template: Template) -> dict[str, Any]:
    statement: dict[str, Any] = template["Resources"]["HeadwaterRelayRole"]["Properties"]["Policies"][0]
    found: dict[str, Any] = statement["PolicyDocument"]["Statement"][0]
    return found


def set_cron(template: Template) -> None:
    first(template, "AWS::Scheduler::Schedule")["ScheduleExpression"] = "cron(0 9 * *)"


def set_unix_cron(template: Template) -> None:
    first(template, "AWS::Scheduler::Schedule")["ScheduleExpression"] = "cron(0 9 * * * *)"


def write_filter_as_text(template: Template) -> None:
    first(template, "AWS::SNS::Subscription", "RawMessageDelivery").update(
        FilterPolicy="{type: deleted}", FilterPolicyScope="MessageBody"
    )


def write_large_filter(template: Template) -> None:
    policy = {f"field{n}": ["a"] for n in range(6)}
    first(template, "AWS::SNS::Subscription").update(FilterPolicy=policy, FilterPolicyScope="MessageBody")


def write_wide_filter(template: Template) -> None:
    policy = {"data": {"a": list(range(9)), "b": list(range(9))}}
    first(template, "AWS::SNS::Subscription").update(FilterPolicy=policy, FilterPolicyScope="MessageBody")


def write_foreign_operator(template: Template) -> None:
    policy = {"data": {"a": [{"matches": "x.*"}]}}
    first(template, "AWS::SNS::Subscription").update(FilterPolicy=policy, FilterPolicyScope="MessageBody")


def start_a_queue(template: Template) -> None:
    first(template, "AWS::Lambda::EventSourceMapping", "ScalingConfig")["StartingPosition"] = "LATEST"


def start_no_stream(template: Template) -> None:
    del first(template, "AWS::Lambda::EventSourceMapping", "StartingPosition")["StartingPosition"]


def take_all_or_nothing(template: Template) -> None:
    del first(template, "AWS::Lambda::EventSourceMapping")["FunctionResponseTypes"]


def batch_without_window(template: Template) -> None:
    del first(template, "AWS::Lambda::EventSourceMapping", "MaximumBatchingWindowInSeconds")[
        "MaximumBatchingWindowInSeconds"
    ]


def run_longer_than_hidden(template: Template) -> None:
    first(template, "AWS::Lambda::Function")["Timeout"] = 900


def allow_all_actions(template: Template) -> None:
    role_of_the_relay(template)["Action"] = "dynamodb:*"


def name_a_queue(template: Template) -> None:
    role_of_the_relay(template)["Resource"] = "shop-catalog-announce"


def allow_all_tables(template: Template) -> None:
    role_of_the_relay(template)["Resource"] = {"Fn::Sub": "arn:${AWS::Partition}:dynamodb:${AWS::Region}:1:table/*"}


def allow_everywhere(template: Template) -> None:
    role_of_the_relay(template)["Resource"] = "*"


def fill_a_policy(template: Template) -> None:
    role_of_the_relay(template)["Resource"] = [
        f"arn:aws:sqs:eu-central-1:000000000000:queue-{n:050d}" for n in range(120)
    ]


def drop_queue_policy(template: Template) -> None:
    _drop(template, "AWS::SQS::QueuePolicy")


def drop_topic_policy(template: Template) -> None:
    _drop(template, "AWS::SNS::TopicPolicy")


def drop_bucket_policy(template: Template) -> None:
    _drop(template, "AWS::S3::BucketPolicy")


def _drop(template: Template, type_: str) -> None:
    resources = template["Resources"]
    gone = {id for id, one in resources.items() if one["Type"] == type_}
    for resource in resources.values():
        if "DependsOn" in resource:
            resource["DependsOn"] = [id for id in resource["DependsOn"] if id not in gone]
    for id in gone:
        del resources[id]


def keep_logs(template: Template) -> None:
    del first(template, "AWS::Logs::LogGroup")["RetentionInDays"]


def forget_a_log(template: Template) -> None:
    del template["Resources"]["HeadwaterRelayFunctionLogs"]
    del template["Resources"]["HeadwaterRelayFunction"]["Properties"]["LoggingConfig"]


def open_a_bucket(template: Template) -> None:
    first(template, "AWS::S3::Bucket")["PublicAccessBlockConfiguration"]["BlockPublicAcls"] = False


def leave_in_the_clear(template: Template) -> None:
    del first(template, "AWS::SQS::Queue")["SqsManagedSseEnabled"]


def lose_the_past(template: Template) -> None:
    del first(template, "AWS::DynamoDB::Table")["PointInTimeRecoverySpecification"]


def try_for_ever(template: Template) -> None:
    del first(template, "AWS::SQS::Queue", "RedrivePolicy")["RedrivePolicy"]


def try_too_often(template: Template) -> None:
    first(template, "AWS::SQS::Queue", "RedrivePolicy")["RedrivePolicy"]["maxReceiveCount"] = 1_000_005


def alarm_without_data(template: Template) -> None:
    alarm = template["Resources"]["CatalogAnnounceDeadLettersAlarm"]["Properties"]
    alarm["TreatMissingData"] = "breaching"


def trust_anybody(template: Template) -> None:
    del first(template, "AWS::Lambda::Permission")["SourceArn"]


def let_nobody_call(template: Template) -> None:
    first(template, "AWS::Lambda::Permission")["FunctionName"] = "HeadwaterAlarmFunction"


def take_any_number(template: Template) -> None:
    del first(template, "AWS::ApiGatewayV2::Stage")["DefaultRouteSettings"]


def write_an_account(template: Template) -> None:
    first(template, "AWS::Lambda::Permission")["SourceArn"] = "arn:aws:sns:eu-west-1:000000000000:topic"


def point_nowhere(template: Template) -> None:
    first(template, "AWS::Lambda::Function")["Role"] = {"Fn::GetAtt": ["NoRole", "Arn"]}


BAD: dict[Callable[[Template], None], str] = {
    set_cron: "schedules_are_understood",
    set_unix_cron: "schedules_are_understood",
    write_filter_as_text: "filters_are_json",
    write_large_filter: "filters_are_small",
    write_wide_filter: "filters_are_small",
    write_foreign_operator: "filters_are_small",
    start_a_queue: "sources_start_right",
    start_no_stream: "sources_start_right",
    take_all_or_nothing: "sources_start_right",
    batch_without_window: "batches_fit",
    run_longer_than_hidden: "messages_stay_hidden",
    allow_all_actions: "actions_are_named",
    name_a_queue: "resources_are_arns",
    allow_all_tables: "resources_are_arns",
    allow_everywhere: "resources_are_arns",
    fill_a_policy: "policies_fit",
    drop_queue_policy: "all_is_tls",
    drop_topic_policy: "all_is_tls",
    drop_bucket_policy: "all_is_tls",
    keep_logs: "logs_end",
    forget_a_log: "logs_end",
    open_a_bucket: "data_is_safe",
    leave_in_the_clear: "data_is_safe",
    lose_the_past: "data_is_safe",
    try_for_ever: "queues_have_an_end",
    try_too_often: "queues_have_an_end",
    alarm_without_data: "alarms_are_sound",
    trust_anybody: "callers_are_known",
    let_nobody_call: "callers_are_known",
    take_any_number: "apis_are_throttled",
    write_an_account: "nothing_is_of_one_account",
    point_nowhere: "reference",
}


@pytest.mark.parametrize(("spoil", "rule"), BAD.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_rule_finds_what_is_wrong(spoil: Callable[[Template], None], rule: str) -> None:
    template = copy.deepcopy(template_of("everything"))
    spoil(template)
    assert [problem for problem in problems(template) if problem.startswith(f"{rule}: ")]


def test_each_rule_has_a_template_that_breaks_it() -> None:
    assert {check.__name__ for check in RULES} - set(BAD.values()) == {"references_exist"}
