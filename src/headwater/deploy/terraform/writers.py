"""Which writer turns which model into resources; a model without one is an error, never left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from headwater.deploy import model
from headwater.deploy.model import Resource
from headwater.deploy.terraform import code, data, messages, places, web
from headwater.deploy.terraform.form import Form, Made
from headwater.errors import DeclarationError

Writer = Callable[[Form, Any], Iterable[Made]]
WRITERS: dict[type[Resource], Writer] = {
    model.Role: data.role,
    model.ManagedPolicy: data.managed_policy,
    model.EncryptionKey: data.encryption_key,
    model.Table: data.table,
    model.Bucket: data.bucket,
    model.BucketPolicy: data.bucket_policy,
    model.StoredParameter: data.stored_parameter,
    model.Queue: messages.queue,
    model.QueuePolicy: messages.queue_policy,
    model.Topic: messages.topic,
    model.TopicPolicy: messages.topic_policy,
    model.Subscription: messages.subscription,
    model.LogGroup: code.log_group,
    model.Function: code.function,
    model.Version: code.version,
    model.EventSource: code.event_source,
    model.Permission: code.permission,
    model.ScheduleGroup: code.schedule_group,
    model.Schedule: code.schedule,
    model.Alarm: code.alarm,
    model.Api: web.api,
    model.Integration: web.integration,
    model.Route: web.route,
    model.Stage: web.stage,
    model.IdentityPool: web.identity_pool,
    model.Site: web.site,
    model.Cluster: places.cluster,
    model.Task: places.task,
    model.Service: places.service,
    model.Scaling: places.scaling,
    model.Vpc: places.vpc,
    model.Subnet: places.subnet,
    model.RouteTable: places.route_table,
    model.InternetGateway: places.internet_gateway,
    model.NatGateway: places.nat_gateway,
    model.SecurityGroup: places.security_group,
    model.Endpoint: places.endpoint,
}


def write(form: Form, resource: Resource) -> Iterable[Made]:
    """Raises `DeclarationError` for a model of another kind."""
    writer = WRITERS.get(type(resource))
    if writer is None:
        raise DeclarationError(
            f"Terraform has no writer for {type(resource).__name__}", operation="synth", resource=resource.id
        )
    return writer(form, resource)
