"""What the parts of a stack have in common: its graph, settings, names, ids and ARNs."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from typing import Any

import msgspec

from headwater.alarms import AlarmSource
from headwater.app import App
from headwater.aws.names import Names
from headwater.aws.settings import Aws
from headwater.aws.settings import Function as FunctionSettings
from headwater.aws.ways import Ways, imported
from headwater.catalog import Catalog
from headwater.config import Config
from headwater.deploy.system_resources import is_kept, sends_mail
from headwater.durations import to_ms
from headwater.errors import DeclarationError
from headwater.grants import infer
from headwater.graph import Graph
from headwater.handlers import HandlerSpec
from headwater.permits import Grant
from headwater.system import NAME

SYSTEM = NAME
_PARTS = re.compile(r"[a-z0-9]+")
MAX_ID = 200


class Unit(msgspec.Struct, frozen=True):
    """What becomes a function or a container: `resource` is its queue or app, `kind` as in `headwater.functions`."""

    resource: str
    kind: str

    @property
    def setting(self) -> str:
        """Its name in `[….aws.functions]`."""
        return self.resource if self.kind == "queue" else f"{self.resource}/{self.kind}"


class Plan:
    """Answers for one stack; nothing here is a model yet."""

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph = graph
        self.config = config
        self.aws: Aws = config.aws
        self.stack = self.aws.stack or f"headwater-{config.environment}"
        self.names = Names(self.stack)
        self._check_names()

    def _check_names(self) -> None:
        catalog = self.catalog
        known = {
            "tables": set(catalog.tables),
            "buckets": {name for app in self.graph.apps for name in app.buckets},
            "exports": set(catalog.topics),
            "functions": {unit.setting for unit in (*self.functions, *self.containers)},
        }
        for section, names in known.items():
            for name in getattr(self.aws, section):
                if name not in names:
                    raise DeclarationError(
                        f"{name!r} is none of {', '.join(sorted(names)) or 'nothing'}",
                        operation="synth",
                        resource=f"aws.{section}",
                    )

    # What there is

    @property
    def catalog(self) -> Catalog:
        return self.graph.catalog

    @cached_property
    def apps(self) -> tuple[App[Any], ...]:
        """Those of the project, in the order of their names."""
        return tuple(sorted((app for app in self.graph.apps if app.name != SYSTEM), key=lambda app: app.name))

    @cached_property
    def ways(self) -> Ways:
        return Ways(self.catalog, frozenset(self.aws.exports))

    @cached_property
    def imports(self) -> dict[str, str]:
        """The topics of other stacks, and their stacks. Raises `DeclarationError` for one that nothing imports."""
        found = {}
        for topic in imported(self.catalog):
            app = topic.partition("/")[0]
            if app not in self.aws.imports:
                raise DeclarationError(
                    f"nothing of this stack is called so, and no stack is named for the app {app!r}",
                    operation="synth",
                    resource=topic,
                    hint=f'add the app, or `{app} = "its-stack"` under [{self.config.environment}.aws.imports]',
                )
            found[topic] = self.aws.imports[app]
        return found

    @cached_property
    def queues(self) -> tuple[str, ...]:
        return tuple(name for name in sorted(self.catalog.queues) if is_kept(self, name))

    @cached_property
    def tables(self) -> tuple[str, ...]:
        return tuple(name for name in sorted(self.catalog.tables) if is_kept(self, name))

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """Those that pass something on by SNS."""
        return tuple(sorted({leg.topic for leg in self.ways.legs} | set(self.aws.exports)))

    @cached_property
    def handled(self) -> dict[str, HandlerSpec | None]:
        """The queues that Headwater consumes, and their handlers; Headwater's own mail has none in the graph."""
        own = (f"{SYSTEM}/outgoing", f"{SYSTEM}/digest-ends")
        return {
            name: self.graph.handlers.get(name) for name in sorted({*self.graph.handlers, *own}) if name in self.queues
        }

    @cached_property
    def grants(self) -> dict[str, list[Grant]]:
        """Of each handler and endpoint, as its code says."""
        return infer(self.graph)

    @cached_property
    def loaded(self) -> tuple[str, ...]:
        """The tables that some code loads."""
        found = (grant for grants in self.grants.values() for grant in grants)
        return tuple(sorted({one.resource for one in found if (one.kind, one.verb) == ("table", "load")}))

    @cached_property
    def functions(self) -> tuple[Unit, ...]:
        """All but the stack's own."""
        queues = (name for name, handler in self.handled.items() if handler is None or not handler.in_process)
        served = (Unit(app.name, "http") for app in self.apps if app.serves_http)
        return (*(Unit(name, "queue") for name in queues), *served, *self.own_functions)

    @cached_property
    def own_functions(self) -> tuple[Unit, ...]:
        wanted = {
            "relay": True,
            "letters": True,
            "alarm": True,
            "tick": any(app.schedules for app in self.graph.apps),
            "objects": bool(self.drops),
        }
        return tuple(Unit(SYSTEM, kind) for kind, is_wanted in wanted.items() if is_wanted)

    @cached_property
    def containers(self) -> tuple[Unit, ...]:
        return tuple(
            Unit(name, "queue") for name, handler in self.handled.items() if handler is not None and handler.in_process
        )

    @cached_property
    def drops(self) -> tuple[str, ...]:
        """The buckets that files come into from outside, which S3 tells of."""
        found = set(self.aws.buckets)
        for app in self.apps:
            found |= {bucket.name for bucket in app.buckets.values() if bucket.watches}
        return tuple(sorted(found | {bucket for bucket, _ in self.direct_uploads}))

    @cached_property
    def direct_uploads(self) -> tuple[tuple[str, Any], ...]:
        """(bucket, exposure) of each where callers have a prefix of their own, when they may go to S3 itself."""
        if self.aws.uploads is None:
            return ()
        exposures = [exposure for app in self.apps for exposure in app.object_exposures if exposure.own_prefix]
        return tuple((e.bucket.name, e) for e in exposures if e.write is not None)

    @cached_property
    def has_objects(self) -> bool:
        return any(app.buckets for app in self.apps)

    @property
    def serves_http(self) -> bool:
        return any(app.serves_http for app in self.apps)

    @property
    def sends_mail(self) -> bool:
        return sends_mail(self)

    @property
    def alarm_sources(self) -> list[AlarmSource]:
        return [app.alarms[name] for app in self.apps for name in sorted(app.alarms)]

    @cached_property
    def owned_tables(self) -> tuple[str, ...]:
        """The tables whose partition is the caller's subject, for who reads them over HTTP."""
        exposures = (one for app in self.apps for one in app.exposures if one.owns_partition and one.read is not None)
        return tuple(sorted({one.table.name for one in exposures}))

    # Settings

    @property
    def secret_arns(self) -> tuple[str, ...]:
        return tuple(sorted({self._secret_arn(secret.partition(":")[0]) for secret in self.aws.secrets.values()}))

    def secret_reference(self, variable: str) -> str:
        """A secret as a container's definition names it."""
        name, _, key = self.aws.secrets[variable].partition(":")
        arn = self.arn("secretsmanager", f"secret:{name}")
        return f"{arn}:{key}::" if key else arn

    def _secret_arn(self, name: str) -> str:
        """Secrets Manager adds six characters of its own."""
        return self.arn("secretsmanager", f"secret:{name}-??????")

    def settings_of(self, unit: Unit) -> FunctionSettings:
        return self.aws.functions.get(unit.setting, FunctionSettings())

    def architecture_of(self, unit: Unit) -> str:
        return self.settings_of(unit).architecture or self.aws.architecture

    # Ids and names

    def id(self, resource: str, kind: str) -> str:
        """The model's id: letters and digits, of the resource's name and what it is."""
        words = "".join(word.capitalize() for word in _PARTS.findall(resource.lower()))
        if len(words) + len(kind) > MAX_ID:
            words = words[: MAX_ID - 8 - len(kind)] + hashlib.sha256(resource.encode()).hexdigest()[:8]
        return words + kind

    def function_id(self, unit: Unit) -> str:
        return self.id(unit.resource, f"{unit.kind.capitalize()}Function")

    def function_name(self, unit: Unit) -> str:
        return self.names.function(unit.resource, unit.kind)

    def target_of(self, unit: Unit) -> str:
        """The ARN by which a function is called: of its alias, when instances of that wait ready."""
        made = self.function_id(unit)
        return f"${{{made}Version.arn}}" if self.settings_of(unit).provisioned else f"${{{made}.arn}}"

    def role_id(self, unit: Unit) -> str:
        return self.id(unit.resource, f"{unit.kind.capitalize()}Role")

    def table_name(self, resource: str) -> str:
        return self.aws.tables.get(resource) or self.names.table(resource)

    def bucket_name(self, resource: str) -> str:
        """Judged by the longest region's name, so that it is the same text in all of them."""
        if resource in self.aws.buckets:
            return self.aws.buckets[resource]
        account, region = "0" * 12, "ap-northeast-1"
        return self.names.bucket(resource, account, region).removesuffix(f"{account}-{region}") + "${account}-${region}"

    # ARNs, by names alone: policies may speak of what is not there yet

    def arn(self, service: str, rest: str) -> str:
        return f"arn:${{partition}}:{service}:${{region}}:${{account}}:{rest}"

    def table_arn(self, resource: str) -> str:
        return self.arn("dynamodb", f"table/{self.table_name(resource)}")

    def own_table_arn(self, name: str) -> str:
        return self.arn("dynamodb", f"table/{name}")

    def queue_arn(self, resource: str, *, dead: bool = False) -> str:
        fifo = self.catalog.queues[resource].fifo
        make = self.names.dead_queue if dead else self.names.queue
        return self.arn("sqs", make(resource, fifo=fifo))

    def topic_arn(self, resource: str) -> str:
        return self.arn("sns", self.names.topic(resource))

    def function_arn(self, unit: Unit) -> str:
        return self.arn("lambda", f"function:{self.function_name(unit)}")

    def bucket_arn(self, resource: str) -> str:
        return f"arn:${{partition}}:s3:::{self.bucket_name(resource)}"


def seconds(duration: str) -> int:
    return -(-to_ms(duration) // 1000)
