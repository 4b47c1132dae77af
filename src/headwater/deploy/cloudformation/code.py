"""Functions, what calls them, schedules and alarms in CloudFormation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.cloudformation.form import Form, Made
from headwater.deploy.text import Token, parse


def log_group(form: Form, one: model.LogGroup) -> Iterator[Made]:
    properties = {"LogGroupName": one.name, "RetentionInDays": one.days, "Tags": form.tags}
    yield Made(id=one.id, type="AWS::Logs::LogGroup", properties=properties)


def function(form: Form, one: model.Function) -> Iterator[Made]:
    network = None
    if one.network:
        network = {"SubnetIds": list(one.network[0]), "SecurityGroupIds": [one.network[1]]}
    yield Made(
        id=one.id,
        type="AWS::Lambda::Function",
        properties={
            "FunctionName": one.name,
            "Description": one.description,
            "Handler": one.handler,
            "Runtime": one.runtime,
            "Architectures": [one.architecture],
            "MemorySize": one.memory,
            "Timeout": one.timeout_s,
            "Role": one.role,
            "Code": {"S3Bucket": one.code[0], "S3Key": one.code[1]},
            "Environment": {"Variables": one.env},
            "LoggingConfig": {"LogGroup": one.log_group, "LogFormat": "Text"},
            "ReservedConcurrentExecutions": one.reserved,
            "TracingConfig": {"Mode": "Active" if one.tracing else "PassThrough"},
            "VpcConfig": network,
            "DeadLetterConfig": {"TargetArn": one.dead} if one.dead else None,
            "Tags": form.tags,
        },
        after=(*one.after, *_policies(form, one)),
    )


def _policies(form: Form, one: model.Function) -> Iterator[str]:
    """What a role's own document cannot hold must be there before anything calls the function."""
    (role,) = (token.owner for token in parse(one.role) if isinstance(token, Token))
    for other in form.stack.resources:
        if isinstance(other, model.ManagedPolicy) and other.role == f"${{{role}.name}}":
            yield other.id


def version(form: Form, one: model.Version) -> Iterator[Made]:
    """A version is never updated: with another description it is another one."""
    frozen = f"{one.id}Frozen"
    properties = {"FunctionName": f"${{{one.function}.name}}", "Description": one.state}
    yield Made(id=frozen, type="AWS::Lambda::Version", properties=properties)
    yield Made(
        id=one.id,
        type="AWS::Lambda::Alias",
        properties={
            "FunctionName": f"${{{one.function}.name}}",
            "FunctionVersion": {"Fn::GetAtt": [frozen, "Version"]},
            "Name": one.alias,
            "ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": one.provisioned},
        },
    )


def event_source(form: Form, one: model.EventSource) -> Iterator[Made]:
    properties: dict[str, Any] = {
        "EventSourceArn": one.source,
        "FunctionName": one.function,
        "BatchSize": one.batch,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "MaximumBatchingWindowInSeconds": one.window_s or None,
        "ScalingConfig": {"MaximumConcurrency": one.concurrency} if one.concurrency else None,
        "Tags": form.tags,
    }
    if one.start:
        properties |= {
            "StartingPosition": one.start,
            "BisectBatchOnFunctionError": True,
            "MaximumRetryAttempts": one.retries,
            "MaximumRecordAgeInSeconds": one.max_age_s,
            "DestinationConfig": {"OnFailure": {"Destination": one.dead}},
        }
    yield Made(id=one.id, type="AWS::Lambda::EventSourceMapping", properties=properties, after=one.after)


def permission(form: Form, one: model.Permission) -> Iterator[Made]:
    yield Made(
        id=one.id,
        type="AWS::Lambda::Permission",
        properties={
            "Action": "lambda:InvokeFunction",
            "FunctionName": one.function,
            "Principal": one.service,
            "SourceArn": one.source or None,
            "SourceAccount": "${account}" if one.own_account else None,
        },
    )


def schedule_group(form: Form, one: model.ScheduleGroup) -> Iterator[Made]:
    yield Made(id=one.id, type="AWS::Scheduler::ScheduleGroup", properties={"Name": one.name, "Tags": form.tags})


def schedule(form: Form, one: model.Schedule) -> Iterator[Made]:
    yield Made(
        id=one.id,
        type="AWS::Scheduler::Schedule",
        properties={
            "Name": one.name,
            "GroupName": one.group,
            "Description": one.description,
            "ScheduleExpression": one.expression,
            "ScheduleExpressionTimezone": one.zone,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {"Arn": one.target, "RoleArn": one.role, "Input": one.input},
        },
        after=one.after,
    )


def alarm(form: Form, one: model.Alarm) -> Iterator[Made]:
    properties: dict[str, Any] = {
        "AlarmName": one.name,
        "AlarmDescription": one.description,
        "ActionsEnabled": one.enabled,
        "AlarmActions": [one.topic],
        "OKActions": [one.topic],
        "ComparisonOperator": "LessThanThreshold" if one.below else "GreaterThanThreshold",
        "Threshold": one.threshold,
        "DatapointsToAlarm": one.datapoints,
        "EvaluationPeriods": one.periods,
        "TreatMissingData": one.missing,
        "Tags": form.tags,
    }
    if one.expression:
        parts = [
            {"Id": figure.name, "ReturnData": False, "MetricStat": {"Metric": _metric(figure), **_period(figure)}}
            for figure in one.figures
        ]
        properties["Metrics"] = [{"Id": "whole", "Expression": one.expression, "ReturnData": True}, *parts]
    else:
        (figure,) = one.figures
        statistic = "ExtendedStatistic" if figure.statistic.startswith("p") else "Statistic"
        properties |= {**_metric(figure), "Period": 60, statistic: figure.statistic}
    yield Made(id=one.id, type="AWS::CloudWatch::Alarm", properties=properties)


def _metric(figure: model.Figure) -> dict[str, Any]:
    return {
        "Namespace": figure.namespace,
        "MetricName": figure.metric,
        "Dimensions": [{"Name": name, "Value": value} for name, value in sorted(figure.dimensions.items())],
    }


def _period(figure: model.Figure) -> dict[str, Any]:
    return {"Period": 60, "Stat": figure.statistic}
