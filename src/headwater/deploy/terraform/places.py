"""Containers and networks in Terraform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.cloudformation.places import FARGATE
from headwater.deploy.terraform.form import Form, Made, Reference


def cluster(form: Form, one: model.Cluster) -> Iterator[Made]:
    body = {"name": one.name, "setting": [{"name": "containerInsights", "value": "enabled"}]}
    yield Made(id=one.id, type="aws_ecs_cluster", body=body)
    capacity = {"cluster_name": f"${{{one.id}.name}}", "capacity_providers": ["FARGATE", "FARGATE_SPOT"]}
    yield Made(id=one.id, type="aws_ecs_cluster_capacity_providers", body=capacity)


def task(form: Form, one: model.Task) -> Iterator[Made]:
    log = {"awslogs-group": one.log_group, "awslogs-region": "${region}", "awslogs-stream-prefix": "worker"}
    container = {
        "name": "worker",
        "image": one.image,
        "essential": True,
        "command": list(one.command),
        "environment": [{"name": name, "value": value} for name, value in sorted(one.env.items())],
        "secrets": [{"name": name, "valueFrom": arn} for name, arn in sorted(one.secrets.items())],
        "logConfiguration": {"logDriver": "awslogs", "options": log},
        "readonlyRootFilesystem": True,
        "stopTimeout": 120,
        "linuxParameters": {"initProcessEnabled": True},
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/tmp"}],
    }
    yield Made(
        id=one.id,
        type="aws_ecs_task_definition",
        body={
            "family": one.name,
            "cpu": str(one.cpu),
            "memory": str(one.memory),
            "network_mode": "awsvpc",
            "requires_compatibilities": ["FARGATE"],
            "runtime_platform": {
                "cpu_architecture": FARGATE[one.architecture],
                "operating_system_family": "LINUX",
            },
            "task_role_arn": one.role,
            "execution_role_arn": one.starter,
            "container_definitions": json.dumps([container], separators=(",", ":")),
            "volume": [{"name": "scratch"}],
        },
    )


def service(form: Form, one: model.Service) -> Iterator[Made]:
    shares = (("FARGATE_SPOT", one.spot), ("FARGATE", 100 - one.spot))
    yield Made(
        id=one.id,
        type="aws_ecs_service",
        body={
            "name": one.name,
            "cluster": one.cluster,
            "task_definition": one.task,
            "capacity_provider_strategy": [
                {"capacity_provider": provider, "weight": weight} for provider, weight in shares if weight
            ],
            "deployment_minimum_healthy_percent": 0,
            "deployment_maximum_percent": 200,
            "deployment_circuit_breaker": {"enable": True, "rollback": True},
            "network_configuration": {
                "assign_public_ip": one.public_address,
                "security_groups": _many(one.groups),
                "subnets": _many(one.subnets),
            },
            "propagate_tags": "SERVICE",
            "lifecycle": {"ignore_changes": ["desired_count"]},
        },
    )


def _many(texts: tuple[str, ...]) -> Any:
    return texts[0] if len(texts) == 1 and texts[0].startswith("${param.") else list(texts)


def scaling(form: Form, one: model.Scaling) -> Iterator[Made]:
    target = f"aws_appautoscaling_target.{one.id}"
    place = {
        "service_namespace": "ecs",
        "scalable_dimension": "ecs:service:DesiredCount",
        "resource_id": f"service/{one.cluster}/{one.service}",
    }
    body = {**place, "min_capacity": one.least, "max_capacity": one.most}
    yield Made(id=one.id, type="aws_appautoscaling_target", body=body)
    for way in ("Up", "Down"):
        policy = {
            "name": f"{one.name}-{way.lower()}",
            "policy_type": "StepScaling",
            "service_namespace": Reference(f"{target}.service_namespace"),
            "scalable_dimension": Reference(f"{target}.scalable_dimension"),
            "resource_id": Reference(f"{target}.resource_id"),
            "step_scaling_policy_configuration": {
                "adjustment_type": "ExactCapacity",
                "cooldown": 0 if way == "Up" else one.cooldown_s,
                "metric_aggregation_type": "Maximum",
                "step_adjustment": list(_steps(one, way)),
            },
        }
        yield Made(id=f"{one.id}{way}", type="aws_appautoscaling_policy", body=policy)
        yield Made(id=f"{one.id}{way}Alarm", type="aws_cloudwatch_metric_alarm", body=_backlog_alarm(one, way))


def _steps(one: model.Scaling, way: str) -> Iterator[dict[str, Any]]:
    """Bounds count from the alarm's threshold, which is one message; they are texts in Terraform."""
    if way == "Down":
        yield {"metric_interval_upper_bound": "0", "scaling_adjustment": one.least}
        return
    ends = [str(start - 1) for start, _ in one.steps[1:]]
    for (start, count), end in zip(one.steps, [*ends, None], strict=True):
        yield {
            "metric_interval_lower_bound": str(start - 1),
            "metric_interval_upper_bound": end,
            "scaling_adjustment": count,
        }


def _backlog_alarm(one: model.Scaling, way: str) -> dict[str, Any]:
    minutes = 1 if way == "Up" else -(-one.cooldown_s // 60)
    parts = [
        {
            "id": name,
            "metric": {
                "namespace": "AWS/SQS",
                "metric_name": f"ApproximateNumberOfMessages{metric}",
                "dimensions": {"QueueName": one.queue},
                "period": 60,
                "stat": "Maximum",
            },
        }
        for name, metric in (("waiting", "Visible"), ("handled", "NotVisible"))
    ]
    return {
        "alarm_name": f"{one.name}-{way.lower()}",
        "alarm_description": f"headwater:scaling:{one.queue}: {way.lower()}",
        "alarm_actions": [Reference(f"aws_appautoscaling_policy.{one.id}{way}.arn")],
        "comparison_operator": "GreaterThanOrEqualToThreshold" if way == "Up" else "LessThanThreshold",
        "threshold": 1,
        "evaluation_periods": minutes,
        "datapoints_to_alarm": minutes,
        "treat_missing_data": "notBreaching" if way == "Up" else "breaching",
        "metric_query": [{"id": "backlog", "expression": "waiting + handled", "return_data": True}, *parts],
    }


# Networks


def vpc(form: Form, one: model.Vpc) -> Iterator[Made]:
    body = {
        "cidr_block": one.cidr,
        "enable_dns_hostnames": True,
        "enable_dns_support": True,
        "tags": {"Name": one.name},
    }
    yield Made(id=one.id, type="aws_vpc", body=body)


def subnet(form: Form, one: model.Subnet) -> Iterator[Made]:
    body = {
        "vpc_id": one.vpc,
        "cidr_block": one.cidr,
        "availability_zone": Reference(f"data.aws_availability_zones.current.names[{one.zone}]"),
        "tags": {"Name": one.name},
    }
    yield Made(id=one.id, type="aws_subnet", body=body)
    association = {"subnet_id": f"${{{one.id}.id}}", "route_table_id": one.table}
    yield Made(id=one.id, type="aws_route_table_association", body=association)


def route_table(form: Form, one: model.RouteTable) -> Iterator[Made]:
    yield Made(id=one.id, type="aws_route_table", body={"vpc_id": one.vpc, "tags": {"Name": one.name}})
    if one.internet or one.nat:
        body = {
            "route_table_id": f"${{{one.id}.id}}",
            "destination_cidr_block": "0.0.0.0/0",
            "gateway_id": one.internet or None,
            "nat_gateway_id": one.nat or None,
        }
        yield Made(id=one.id, type="aws_route", body=body)


def internet_gateway(form: Form, one: model.InternetGateway) -> Iterator[Made]:
    yield Made(id=one.id, type="aws_internet_gateway", body={"vpc_id": one.vpc, "tags": {"Name": one.name}})


def nat_gateway(form: Form, one: model.NatGateway) -> Iterator[Made]:
    yield Made(id=one.id, type="aws_eip", body={"domain": "vpc", "tags": {"Name": one.name}})
    body = {
        "subnet_id": one.subnet,
        "allocation_id": Reference(f"aws_eip.{one.id}.id"),
        "tags": {"Name": one.name},
    }
    yield Made(id=one.id, type="aws_nat_gateway", body=body)


def security_group(form: Form, one: model.SecurityGroup) -> Iterator[Made]:
    body = {"name": one.name, "description": one.description, "vpc_id": one.vpc, "tags": {"Name": one.name}}
    yield Made(id=one.id, type="aws_security_group", body=body)
    https = {
        "security_group_id": f"${{{one.id}.id}}",
        "ip_protocol": "tcp",
        "from_port": 443,
        "to_port": 443,
        "description": "HTTPS",
    }
    if one.from_cidr:
        inside = {**https, "cidr_ipv4": one.from_cidr}
        yield Made(id=one.id, type="aws_vpc_security_group_ingress_rule", body=inside)
    yield Made(id=one.id, type="aws_vpc_security_group_egress_rule", body={**https, "cidr_ipv4": "0.0.0.0/0"})


def endpoint(form: Form, one: model.Endpoint) -> Iterator[Made]:
    gateway = bool(one.tables)
    body = {
        "vpc_id": one.vpc,
        "service_name": f"com.amazonaws.${{region}}.{one.service}",
        "vpc_endpoint_type": "Gateway" if gateway else "Interface",
        "route_table_ids": list(one.tables) or None,
        "subnet_ids": list(one.subnets) or None,
        "security_group_ids": list(one.groups) or None,
        "private_dns_enabled": None if gateway else True,
    }
    yield Made(id=one.id, type="aws_vpc_endpoint", body=body)
