"""The private network of a stack, if it has one: functions reach AWS by endpoints, without a way out of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from headwater.deploy.model import (
    Endpoint,
    InternetGateway,
    NatGateway,
    Resource,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from headwater.deploy.plan import SYSTEM, Plan

GATEWAYS = ("dynamodb", "s3")
"""Their endpoints cost nothing."""
INTERFACES = ("logs", "sns", "sqs")


def placed(plan: Plan) -> tuple[tuple[str, ...], str] | None:
    """The subnets and the security group of a function."""
    if plan.aws.network is None:
        return None
    subnets = tuple(f"${{{id}.id}}" for id in private_subnets(plan))
    return subnets, f"${{{plan.id(SYSTEM, 'FunctionGroup')}.id}}"


def private_subnets(plan: Plan) -> list[str]:
    zones = plan.aws.network.zones if plan.aws.network else 0
    return [plan.id(SYSTEM, f"PrivateSubnet{zone + 1}") for zone in range(zones)]


def network(plan: Plan) -> Iterator[Resource]:
    settings = plan.aws.network
    if settings is None:
        return
    vpc = plan.id(SYSTEM, "Vpc")
    ref = f"${{{vpc}.id}}"
    yield Vpc(id=vpc, name=plan.stack, cidr=settings.cidr)
    ranges = list(ipaddress.ip_network(settings.cidr).subnets(prefixlen_diff=4))
    if settings.internet:
        yield from _way_out(plan, ref, str(ranges[-1]))
    private = plan.id(SYSTEM, "PrivateRoutes")
    nat = f"${{{plan.id(SYSTEM, 'NatGateway')}.id}}" if settings.internet else ""
    yield RouteTable(id=private, vpc=ref, name=f"{plan.stack}-private", nat=nat)
    for zone, id in enumerate(private_subnets(plan)):
        yield Subnet(
            id=id,
            vpc=ref,
            name=f"{plan.stack}-private-{zone + 1}",
            cidr=str(ranges[zone]),
            zone=zone,
            table=f"${{{private}.id}}",
        )
    yield from _doors(plan, ref, settings.cidr, private)


def _way_out(plan: Plan, vpc: str, cidr: str) -> Iterator[Resource]:
    gateway, routes = plan.id(SYSTEM, "InternetGateway"), plan.id(SYSTEM, "PublicRoutes")
    subnet = plan.id(SYSTEM, "PublicSubnet")
    yield InternetGateway(id=gateway, vpc=vpc, name=plan.stack)
    yield RouteTable(id=routes, vpc=vpc, name=f"{plan.stack}-public", internet=f"${{{gateway}.id}}")
    yield Subnet(id=subnet, vpc=vpc, name=f"{plan.stack}-public", cidr=cidr, zone=0, table=f"${{{routes}.id}}")
    yield NatGateway(id=plan.id(SYSTEM, "NatGateway"), subnet=f"${{{subnet}.id}}", name=plan.stack)


def _doors(plan: Plan, vpc: str, cidr: str, private: str) -> Iterator[Resource]:
    inside, doors = plan.id(SYSTEM, "FunctionGroup"), plan.id(SYSTEM, "EndpointGroup")
    yield SecurityGroup(id=inside, vpc=vpc, name=f"{plan.stack}-functions", description="Functions: out by HTTPS")
    yield SecurityGroup(
        id=doors,
        vpc=vpc,
        name=f"{plan.stack}-endpoints",
        description="Endpoints: in by HTTPS from the network",
        from_cidr=cidr,
    )
    for service in GATEWAYS:
        yield Endpoint(
            id=plan.id(SYSTEM, f"{service.capitalize()}Endpoint"),
            vpc=vpc,
            service=service,
            tables=(f"${{{private}.id}}",),
        )
    for service in interfaces(plan):
        yield Endpoint(
            id=plan.id(SYSTEM, "".join(part.capitalize() for part in service.split(".")) + "Endpoint"),
            vpc=vpc,
            service=service,
            subnets=tuple(f"${{{id}.id}}" for id in private_subnets(plan)),
            groups=(f"${{{doors}.id}}",),
        )


def interfaces(plan: Plan) -> list[str]:
    """The services that are needed besides; with a way out none of them, it costs less."""
    if plan.aws.network is None or plan.aws.network.internet:
        return []
    found = {*INTERFACES, "scheduler"}
    found |= {"email"} if plan.sends_mail else set()
    found |= {"xray"} if plan.aws.tracing else set()
    found |= {"ecr.api", "ecr.dkr"} if plan.containers else set()
    return sorted(found)
