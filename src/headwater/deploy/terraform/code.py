"""Functions, what calls them, schedules and alarms in Terraform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.terraform.form import Form, Made, Reference
from headwater.deploy.text import Token, parse


def log_group(form: Form, one: model.LogGroup) -> Iterator[Made]:
    yield Made(id=one.id, type="aws_cloudwatch_log_group", body={"name": one.name, "retention_in_days": one.days})


def function(form: Form, one: model.Function) -> Iterator[Made]:
    network = None
    if one.network:
        network = {"subnet_ids": list(one.network[0]), "security_group_ids": [one.network[1]]}
    published = any(isinstance(other, model.Version) and other.function == one.id for other in form.stack.resources)
    yield Made(
        id=one.id,
        type="aws_lambda_function",
        body={
            "function_name": one.name,
            "description": one.description,
            "handler": one.handler,
            "runtime": one.runtime,
            "architectures": [one.architecture],
            "memory_size": one.memory,
            "timeout": one.timeout_s,
            "role": one.role,
            "s3_bucket": one.code[0],
            "s3_key": one.code[1],
            "environment": {"variables": one.env},
            "logging_config": {"log_group": one.log_group, "log_format": "Text"},
            "reserved_concurrent_executions": one.reserved,
            "tracing_config": {"mode": "Active" if one.tracing else "PassThrough"},
            "vpc_config": network,
            "dead_letter_config": {"target_arn": one.dead} if one.dead else None,
            "publish": published or None,
        },
        needs=tuple(_policies(form, one)),
    )


def _policies(form: Form, one: model.Function) -> Iterator[str]:
    """What the role may is written beside it, and must be there before anything calls the function."""
    (role,) = (token.owner for token in parse(one.role) if isinstance(token, Token))
    for other in form.stack.resources:
        if isinstance(other, model.Role) and other.id == role and other.statements:
            yield f"aws_iam_role_policy.{role}Policy"
        if isinstance(other, model.ManagedPolicy) and other.role == f"${{{role}.name}}":
            yield f"aws_iam_role_policy_attachment.{other.id}"


def version(form: Form, one: model.Version) -> Iterator[Made]:
    """Terraform publishes a version itself whenever the function changes."""
    version = Reference(f"aws_lambda_function.{one.function}.version")
    body = {"name": one.alias, "function_name": f"${{{one.function}.name}}", "function_version": version}
    yield Made(id=one.id, type="aws_lambda_alias", body=body)
    yield Made(
        id=one.id,
        type="aws_lambda_provisioned_concurrency_config",
        body={
            "function_name": f"${{{one.function}.name}}",
            "qualifier": Reference(f"aws_lambda_alias.{one.id}.name"),
            "provisioned_concurrent_executions": one.provisioned,
        },
    )


def event_source(form: Form, one: model.EventSource) -> Iterator[Made]:
    body: dict[str, Any] = {
        "event_source_arn": one.source,
        "function_name": one.function,
        "batch_size": one.batch,
        "function_response_types": ["ReportBatchItemFailures"],
        "maximum_batching_window_in_seconds": one.window_s or None,
        "scaling_config": {"maximum_concurrency": one.concurrency} if one.concurrency else None,
    }
    if one.start:
        body |= {
            "starting_position": one.start,
            "bisect_batch_on_function_error": True,
            "maximum_retry_attempts": one.retries,
            "maximum_record_age_in_seconds": one.max_age_s,
            "destination_config": {"on_failure": {"destination_arn": one.dead}},
        }
    yield Made(id=one.id, type="aws_lambda_event_source_mapping", body=body)


def permission(form: Form, one: model.Permission) -> Iterator[Made]:
    aliases = {f"${{{other.id}.arn}}": other for other in form.stack.resources if isinstance(other, model.Version)}
    alias = aliases.get(one.function)
    body = {
        "action": "lambda:InvokeFunction",
        "function_name": one.function if alias is None else f"${{{alias.function}.name}}",
        "qualifier": None if alias is None else Reference(f"aws_lambda_alias.{alias.id}.name"),
        "principal": one.service,
        "source_arn": one.source or None,
        "source_account": "${account}" if one.own_account else None,
    }
    yield Made(id=one.id, type="aws_lambda_permission", body=body)


def schedule_group(form: Form, one: model.ScheduleGroup) -> Iterator[Made]:
    yield Made(id=one.id, type="aws_scheduler_schedule_group", body={"name": one.name})


def schedule(form: Form, one: model.Schedule) -> Iterator[Made]:
    body = {
        "name": one.name,
        "group_name": one.group,
        "description": one.description,
        "schedule_expression": one.expression,
        "schedule_expression_timezone": one.zone,
        "flexible_time_window": {"mode": "OFF"},
        "target": {"arn": one.target, "role_arn": one.role, "input": one.input},
    }
    yield Made(id=one.id, type="aws_scheduler_schedule", body=body)


def alarm(form: Form, one: model.Alarm) -> Iterator[Made]:
    body: dict[str, Any] = {
        "alarm_name": one.name,
        "alarm_description": one.description,
        "actions_enabled": one.enabled,
        "alarm_actions": [one.topic],
        "ok_actions": [one.topic],
        "comparison_operator": "LessThanThreshold" if one.below else "GreaterThanThreshold",
        "threshold": one.threshold,
        "datapoints_to_alarm": one.datapoints,
        "evaluation_periods": one.periods,
        "treat_missing_data": one.missing,
    }
    if one.expression:
        parts = [{"id": figure.name, "metric": {**_metric(figure), "stat": figure.statistic}} for figure in one.figures]
        body["metric_query"] = [{"id": "whole", "expression": one.expression, "return_data": True}, *parts]
    else:
        (figure,) = one.figures
        statistic = "extended_statistic" if figure.statistic.startswith("p") else "statistic"
        body |= {**_metric(figure), statistic: figure.statistic}
    yield Made(id=one.id, type="aws_cloudwatch_metric_alarm", body=body)


def _metric(figure: model.Figure) -> dict[str, Any]:
    return {
        "namespace": figure.namespace,
        "metric_name": figure.metric,
        "dimensions": dict(sorted(figure.dimensions.items())),
        "period": 60,
    }
