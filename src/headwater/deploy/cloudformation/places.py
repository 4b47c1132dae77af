"""Containers and networks in CloudFormation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.cloudformation.form import Form, Made

FARGATE = {"arm64": "ARM64", "x86_64": "X86_64"}


def cluster(form: Form, one: model.Cluster) -> Iterator[Made]:
    properties = {
        "ClusterName": one.name,
        "CapacityProviders": ["FARGATE", "FARGATE_SPOT"],
        "ClusterSettings": [{"Name": "containerInsights", "Value": "enabled"}],
        "Tags": form.tags,
    }
    yield Made(id=one.id, type="AWS::ECS::Cluster", properties=properties)


def task(form: Form, one: model.Task) -> Iterator[Made]:
    log = {
        "awslogs-group": one.log_group,
        "awslogs-region": "${region}",
        "awslogs-stream-prefix": "worker",
    }
    container = {
        "Name": "worker",
        "Image": one.image,
        "Essential": True,
        "Command": list(one.command),
        "Environment": [{"Name": name, "Value": value} for name, value in sorted(one.env.items())],
        "Secrets": [{"Name": name, "ValueFrom": arn} for name, arn in sorted(one.secrets.items())] or None,
        "LogConfiguration": {"LogDriver": "awslogs", "Options": log},
        "ReadonlyRootFilesystem": True,
        "StopTimeout": 120,
        "LinuxParameters": {"InitProcessEnabled": True},
        "MountPoints": [{"SourceVolume": "scratch", "ContainerPath": "/tmp"}],
    }
    yield Made(
        id=one.id,
        type="AWS::ECS::TaskDefinition",
        properties={
            "Family": one.name,
            "Cpu": str(one.cpu),
            "Memory": str(one.memory),
            "NetworkMode": "awsvpc",
            "RequiresCompatibilities": ["FARGATE"],
            "RuntimePlatform": {"CpuArchitecture": FARGATE[one.architecture], "OperatingSystemFamily": "LINUX"},
            "TaskRoleArn": one.role,
            "ExecutionRoleArn": one.starter,
            "ContainerDefinitions": [container],
            "Volumes": [{"Name": "scratch"}],
            "Tags": form.tags,
        },
    )


def service(form: Form, one: model.Service) -> Iterator[Made]:
    shares = (("FARGATE_SPOT", one.spot), ("FARGATE", 100 - one.spot))
    network = {
        "AssignPublicIp": "ENABLED" if one.public_address else "DISABLED",
        "SecurityGroups": _many(one.groups),
        "Subnets": _many(one.subnets),
    }
    yield Made(
        id=one.id,
        type="AWS::ECS::Service",
        properties={
            "ServiceName": one.name,
            "Cluster": one.cluster,
            "TaskDefinition": one.task,
            "DesiredCount": 0,
            "CapacityProviderStrategy": [
                {"CapacityProvider": provider, "Weight": weight} for provider, weight in shares if weight
            ],
            "DeploymentConfiguration": {
                "MinimumHealthyPercent": 0,
                "MaximumPercent": 200,
                "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
            },
            "NetworkConfiguration": {"AwsvpcConfiguration": network},
            "PropagateTags": "SERVICE",
            "Tags": form.tags,
        },
    )


def _many(texts: tuple[str, ...]) -> Any:
    """A parameter of many values is a list itself."""
    return texts[0] if len(texts) == 1 and texts[0].startswith("${param.") else list(texts)


def scaling(form: Form, one: model.Scaling) -> Iterator[Made]:
    """One alarm goes off while anything is there, the other when nothing is; each looks at the steps."""
    target = f"{one.id}Target"
    yield Made(
        id=target,
        type="AWS::ApplicationAutoScaling::ScalableTarget",
        properties={
            "ServiceNamespace": "ecs",
            "ScalableDimension": "ecs:service:DesiredCount",
            "ResourceId": f"service/{one.cluster}/{one.service}",
            "MinCapacity": one.least,
            "MaxCapacity": one.most,
        },
    )
    for way, adjustments in (("Up", _steps_up(one)), ("Down", [_step(None, 0, one.least)])):
        policy = f"{one.id}{way}"
        yield Made(
            id=policy,
            type="AWS::ApplicationAutoScaling::ScalingPolicy",
            properties={
                "PolicyName": f"{one.name}-{way.lower()}",
                "PolicyType": "StepScaling",
                "ScalingTargetId": {"Ref": target},
                "StepScalingPolicyConfiguration": {
                    "AdjustmentType": "ExactCapacity",
                    "Cooldown": 0 if way == "Up" else one.cooldown_s,
                    "MetricAggregationType": "Maximum",
                    "StepAdjustments": adjustments,
                },
            },
        )
        yield Made(id=f"{policy}Alarm", type="AWS::CloudWatch::Alarm", properties=_backlog_alarm(form, one, way))


def _steps_up(one: model.Scaling) -> list[dict[str, Any]]:
    """Bounds count from the alarm's threshold, which is one message."""
    ends = [start - 1 for start, _ in one.steps[1:]]
    return [_step(start - 1, end, count) for (start, count), end in zip(one.steps, [*ends, None], strict=True)]


def _step(low: int | None, high: int | None, count: int) -> dict[str, Any]:
    return {"MetricIntervalLowerBound": low, "MetricIntervalUpperBound": high, "ScalingAdjustment": count}


def _backlog_alarm(form: Form, one: model.Scaling, way: str) -> dict[str, Any]:
    parts = [
        {
            "Id": name,
            "ReturnData": False,
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/SQS",
                    "MetricName": f"ApproximateNumberOfMessages{metric}",
                    "Dimensions": [{"Name": "QueueName", "Value": one.queue}],
                },
                "Period": 60,
                "Stat": "Maximum",
            },
        }
        for name, metric in (("waiting", "Visible"), ("handled", "NotVisible"))
    ]
    minutes = 1 if way == "Up" else -(-one.cooldown_s // 60)
    return {
        "AlarmName": f"{one.name}-{way.lower()}",
        "AlarmDescription": f"headwater:scaling:{one.queue}: {way.lower()}",
        "AlarmActions": [{"Ref": f"{one.id}{way}"}],
        "ComparisonOperator": "GreaterThanOrEqualToThreshold" if way == "Up" else "LessThanThreshold",
        "Threshold": 1,
        "EvaluationPeriods": minutes,
        "DatapointsToAlarm": minutes,
        "TreatMissingData": "notBreaching" if way == "Up" else "breaching",
        "Metrics": [{"Id": "backlog", "Expression": "waiting + handled", "ReturnData": True}, *parts],
        "Tags": form.tags,
    }


# Networks


def vpc(form: Form, one: model.Vpc) -> Iterator[Made]:
    properties = {
        "CidrBlock": one.cidr,
        "EnableDnsHostnames": True,
        "EnableDnsSupport": True,
        "Tags": _named(form, one.name),
    }
    yield Made(id=one.id, type="AWS::EC2::VPC", properties=properties)


def _named(form: Form, name: str) -> list[dict[str, str]]:
    return [*form.tags, {"Key": "Name", "Value": name}]


def subnet(form: Form, one: model.Subnet) -> Iterator[Made]:
    properties = {
        "VpcId": one.vpc,
        "CidrBlock": one.cidr,
        "AvailabilityZone": {"Fn::Select": [one.zone, {"Fn::GetAZs": ""}]},
        "MapPublicIpOnLaunch": False,
        "Tags": _named(form, one.name),
    }
    yield Made(id=one.id, type="AWS::EC2::Subnet", properties=properties)
    association = {"SubnetId": f"${{{one.id}.id}}", "RouteTableId": one.table}
    yield Made(id=f"{one.id}Routes", type="AWS::EC2::SubnetRouteTableAssociation", properties=association)


def route_table(form: Form, one: model.RouteTable) -> Iterator[Made]:
    yield Made(
        id=one.id,
        type="AWS::EC2::RouteTable",
        properties={"VpcId": one.vpc, "Tags": _named(form, one.name)},
    )
    if one.internet or one.nat:
        properties = {
            "RouteTableId": f"${{{one.id}.id}}",
            "DestinationCidrBlock": "0.0.0.0/0",
            "GatewayId": one.internet or None,
            "NatGatewayId": one.nat or None,
        }
        attached = tuple(
            f"{found.id}Attachment" for found in form.stack.resources if isinstance(found, model.InternetGateway)
        )
        yield Made(id=f"{one.id}WayOut", type="AWS::EC2::Route", properties=properties, after=attached)


def internet_gateway(form: Form, one: model.InternetGateway) -> Iterator[Made]:
    yield Made(id=one.id, type="AWS::EC2::InternetGateway", properties={"Tags": _named(form, one.name)})
    attachment = {"VpcId": one.vpc, "InternetGatewayId": f"${{{one.id}.id}}"}
    yield Made(id=f"{one.id}Attachment", type="AWS::EC2::VPCGatewayAttachment", properties=attachment)


def nat_gateway(form: Form, one: model.NatGateway) -> Iterator[Made]:
    address = f"{one.id}Address"
    yield Made(id=address, type="AWS::EC2::EIP", properties={"Domain": "vpc", "Tags": _named(form, one.name)})
    properties = {
        "SubnetId": one.subnet,
        "AllocationId": {"Fn::GetAtt": [address, "AllocationId"]},
        "Tags": _named(form, one.name),
    }
    yield Made(id=one.id, type="AWS::EC2::NatGateway", properties=properties)


def security_group(form: Form, one: model.SecurityGroup) -> Iterator[Made]:
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "Description": "HTTPS"}
    inside = [{**https, "CidrIp": one.from_cidr}] if one.from_cidr else None
    properties = {
        "GroupName": one.name,
        "GroupDescription": one.description,
        "VpcId": one.vpc,
        "SecurityGroupIngress": inside,
        "SecurityGroupEgress": [{**https, "CidrIp": "0.0.0.0/0"}],
        "Tags": _named(form, one.name),
    }
    yield Made(id=one.id, type="AWS::EC2::SecurityGroup", properties=properties)


def endpoint(form: Form, one: model.Endpoint) -> Iterator[Made]:
    gateway = bool(one.tables)
    yield Made(
        id=one.id,
        type="AWS::EC2::VPCEndpoint",
        properties={
            "VpcId": one.vpc,
            "ServiceName": f"com.amazonaws.${{region}}.{one.service}",
            "VpcEndpointType": "Gateway" if gateway else "Interface",
            "RouteTableIds": list(one.tables) or None,
            "SubnetIds": list(one.subnets) or None,
            "SecurityGroupIds": list(one.groups) or None,
            "PrivateDnsEnabled": None if gateway else True,
        },
    )
