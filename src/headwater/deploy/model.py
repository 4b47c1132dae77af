"""What a stack consists of, as typed data that says nothing of templates.

Each model has an id, unique in its stack; texts may hold tokens (`text`). What a service offers and no stack of ours
needs is not here. Data models (tables, buckets) have `keep`: they outlive the stack.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """`only_if` is the id of a parameter that must not be empty, `after` are ids that must be there first."""

    id: str
    only_if: str = ""
    after: tuple[str, ...] = ()


# Permissions


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One statement of a policy; `principal` is (kind, who) in those of resources.

    `conditions` maps an operator to keys and values. `why` tells why a resource is "*": AWS knows no narrower one.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: dict[str, dict[str, str | tuple[str, ...]]] = {}
    principal: tuple[str, tuple[str, ...]] | None = None
    effect: Literal["Allow", "Deny"] = "Allow"
    sid: str = ""
    why: str = ""


class Role(Resource, frozen=True):
    """`trust` says who may assume it, `statements` what it may. They are one inline policy as long as they fit."""

    name: str
    trust: tuple[Statement, ...]
    statements: tuple[Statement, ...] = ()


class ManagedPolicy(Resource, frozen=True):
    """More statements of a role, which one inline policy cannot hold."""

    name: str
    role: str
    statements: tuple[Statement, ...]


class EncryptionKey(Resource, frozen=True):
    description: str
    statements: tuple[Statement, ...]


# Data


class Index(msgspec.Struct, frozen=True):
    """A global secondary index with all attributes."""

    name: str
    partition: str
    sort: str = ""


class Table(Resource, frozen=True):
    """On demand, encrypted, with point-in-time recovery; all attributes of keys are strings."""

    name: str
    partition: str
    sort: str = ""
    indexes: tuple[Index, ...] = ()
    ttl: str = ""
    stream: Literal["", "NEW_AND_OLD_IMAGES", "NEW_IMAGE"] = ""
    keep: bool = True


class Notification(msgspec.Struct, frozen=True):
    """Events that call a function; `prefix` narrows the keys."""

    events: tuple[str, ...]
    function: str
    prefix: str = ""


class CorsRule(msgspec.Struct, frozen=True):
    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_s: int


class Bucket(Resource, frozen=True):
    """Private, encrypted, without ACLs. Objects expire after `expire_days`; 0 is never."""

    name: str
    versions: bool = False
    expire_days: int = 0
    notifications: tuple[Notification, ...] = ()
    cors: CorsRule | None = None
    keep: bool = True


class BucketPolicy(Resource, frozen=True):
    bucket: str
    statements: tuple[Statement, ...]


# Messages


class Queue(Resource, frozen=True):
    """Encrypted by SQS. `dead` is the id of the queue that takes what was received `max_receives` times."""

    name: str
    fifo: bool = False
    visibility_s: int = 30
    retention_s: int = 1_209_600
    delay_s: int = 0
    dead: str = ""
    max_receives: int = 0


class QueuePolicy(Resource, frozen=True):
    queue: str
    statements: tuple[Statement, ...]


class Topic(Resource, frozen=True):
    """Encrypted with `key`, an alias or a token."""

    name: str
    key: str = "alias/aws/sns"


class TopicPolicy(Resource, frozen=True):
    topic: str
    statements: tuple[Statement, ...]


class Subscription(Resource, frozen=True):
    """`topic` and `endpoint` are ARNs, or an address. With a `filter` on the body of the message."""

    topic: str
    protocol: Literal["sqs", "lambda", "email"]
    endpoint: str
    filter: dict[str, Any] = {}
    dead: str = ""


# Code


class LogGroup(Resource, frozen=True):
    name: str
    days: int


class Function(Resource, frozen=True):
    """`code` is where the package is: parameters of the bucket and of the key. `network` are subnets and a security
    group. `dead` is the queue of events that a function has failed for, if it is called asynchronously."""

    name: str
    description: str
    handler: str
    runtime: str
    architecture: str
    memory: int
    timeout_s: int
    role: str
    log_group: str
    env: dict[str, str]
    code: tuple[str, str]
    reserved: int | None = None
    network: tuple[tuple[str, ...], str] | None = None
    dead: str = ""
    tracing: bool = False


class Version(Resource, frozen=True):
    """A frozen state of the function, of which `provisioned` instances wait ready under the alias.

    `state` tells one from another: there is a new version whenever it changes.
    """

    function: str
    provisioned: int
    alias: str
    state: str


class EventSource(Resource, frozen=True):
    """A queue or stream that calls a function. Streams (`start` is set) give up a record to `dead` in the end."""

    source: str
    function: str
    batch: int
    window_s: int = 0
    concurrency: int = 0
    start: Literal["", "TRIM_HORIZON", "LATEST"] = ""
    dead: str = ""
    retries: int = -1
    max_age_s: int = -1


class Permission(Resource, frozen=True):
    """Who may invoke a function, and on whose behalf."""

    function: str
    service: str
    source: str = ""
    own_account: bool = False


class ScheduleGroup(Resource, frozen=True):
    name: str


class Schedule(Resource, frozen=True):
    name: str
    group: str
    expression: str
    zone: str
    target: str
    role: str
    input: str
    description: str = ""


# HTTP


class Api(Resource, frozen=True):
    name: str
    description: str
    cors: CorsRule | None = None
    credentials: bool = False


class Integration(Resource, frozen=True):
    """`target` is the ARN of a function or of its alias."""

    api: str
    target: str


class Route(Resource, frozen=True):
    api: str
    key: str
    integration: str


class Stage(Resource, frozen=True):
    api: str
    log_group: str
    log_format: str
    rate: int
    burst: int


# Watching


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of CloudWatch a minute; with a `name` it is a part of an expression only."""

    namespace: str
    metric: str
    dimensions: dict[str, str]
    statistic: str
    name: str = ""


class Alarm(Resource, frozen=True):
    """Of one figure, or of the `expression` of several. It tells `topic` when its state changes."""

    name: str
    description: str
    figures: tuple[Figure, ...]
    threshold: float
    expression: str = ""
    below: bool = False
    datapoints: int = 1
    periods: int = 1
    missing: Literal["notBreaching", "breaching", "ignore", "missing"] = "notBreaching"
    topic: str = ""
    enabled: bool = True


# Containers


class Cluster(Resource, frozen=True):
    name: str


class Task(Resource, frozen=True):
    """`image` is a parameter's token; `command` what the container runs."""

    name: str
    image: str
    command: tuple[str, ...]
    cpu: int
    memory: int
    architecture: str
    role: str
    starter: str
    log_group: str
    env: dict[str, str]
    secrets: dict[str, str] = {}


class Service(Resource, frozen=True):
    name: str
    cluster: str
    task: str
    subnets: tuple[str, ...]
    groups: tuple[str, ...]
    spot: int
    public_address: bool


class Scaling(Resource, frozen=True):
    """`steps` are (from how many messages, how many tasks); `cooldown_s` is how long a need must be gone."""

    name: str
    cluster: str
    service: str
    least: int
    most: int
    queue: str
    steps: tuple[tuple[int, int], ...]
    cooldown_s: int


# Network


class Vpc(Resource, frozen=True):
    name: str
    cidr: str


class Subnet(Resource, frozen=True):
    vpc: str
    name: str
    cidr: str
    zone: int
    table: str


class RouteTable(Resource, frozen=True):
    """With `gateway` (of the internet or of addresses) the way out."""

    vpc: str
    name: str
    internet: str = ""
    nat: str = ""


class InternetGateway(Resource, frozen=True):
    vpc: str
    name: str


class NatGateway(Resource, frozen=True):
    subnet: str
    name: str


class SecurityGroup(Resource, frozen=True):
    """Nothing comes in but HTTPS from `from_cidr`, and HTTPS alone goes out."""

    vpc: str
    name: str
    description: str
    from_cidr: str = ""


class Endpoint(Resource, frozen=True):
    """A way to a service inside the network: a gateway on `tables`, or interfaces in `subnets`."""

    vpc: str
    service: str
    tables: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


# Users


class IdentityPool(Resource, frozen=True):
    name: str
    provider: str
    role: str
    tag: str
    claim: str


class Site(Resource, frozen=True):
    """A bucket's files over HTTPS at the edge."""

    name: str
    description: str
    bucket: str


# Other stacks, and people


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """An input of the stack; `many` are several values with commas. `stored` is read from the parameter store, where
    the default is its name."""

    id: str
    description: str
    default: str | None = None
    stored: bool = False
    many: bool = False


class StoredParameter(Resource, frozen=True):
    name: str
    value: str
    description: str


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """With `export` other stacks can import it."""

    id: str
    value: str
    description: str
    export: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where Terraform keeps what it knows: a bucket and a key; with `workspaces` one for each environment."""

    bucket: str = ""
    key: str = ""
    workspaces: bool = False


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one environment; `secrets` maps variables to secrets, "name" or "name:key"."""

    name: str
    environment: str
    description: str
    parameters: tuple[Parameter, ...]
    resources: tuple[Resource, ...]
    outputs: tuple[Output, ...]
    tags: dict[str, str]
    secrets: dict[str, str] = {}
    state: State = State()

    def find(self, id: str) -> Resource:
        return next(found for found in self.resources if found.id == id)
