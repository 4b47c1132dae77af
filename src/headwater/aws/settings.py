"""The section `[….aws]` of `headwater.toml`: what an environment is like on AWS. All of it has a default."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from headwater.aws.names import is_stack
from headwater.durations import to_ms
from headwater.errors import HeadwaterError

RETENTION_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)
"""How long CloudWatch Logs can keep a group's events."""
MAX_TIMEOUT_S = 900
_DAY_MS = 86_400_000
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What differs for one function, named "app/queue", "app/http", or as the stack's own: "headwater/relay".

    `provisioned` is how many instances wait ready, `reserved` how many may run at the most, `concurrency` how many
    a queue invokes at once. A worker's `memory` is its task's.
    """

    memory: int | None = None
    timeout: str | None = None
    architecture: Literal["arm64", "x86_64"] | None = None
    provisioned: int = 0
    reserved: int | None = None
    concurrency: int | None = None


class Throttle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests a second to the whole HTTP API, and how many at once beyond that rate."""

    rate: int = 100
    burst: int = 200


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A private network for the functions. With `internet` it has a way out, which webhooks and services need.

    `zones` is how many availability zones it spans.
    """

    cidr: str = "10.40.0.0/16"
    zones: int = 2
    internet: bool = False


class Uploads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Direct uploads to S3: who signs in with `issuer` (an OpenID Connect provider's ARN) writes below `<sub>/`.

    `client` is the audience of the tokens. With `tables` they also read their own rows of tables with `owner=`.
    """

    provider: str
    claim: str = "sub"
    tables: bool = False


class Workers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Containers for handlers with `run_in="process"`; `spot` is the share of them on spot capacity, in percent."""

    cpu: int = 1024
    memory: int = 2048
    spot: int = 100


class Terraform(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Terraform keeps its state: a bucket, and a key there, by default the stack's name and ".tfstate".

    With `workspaces` it is one for each environment, whose name the workspace must have.
    """

    bucket: str = ""
    key: str = ""
    workspaces: bool = False


class Aws(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An environment on AWS.

    `stack` begins the name of all that belongs to it; by default it is "headwater-" and the environment's name.
    `env` are variables for all functions; `secrets` maps variables to a secret of Secrets Manager, "name" or
    "name:key". `exports` are topics that other stacks may follow, `accounts` the accounts that may besides this one;
    `imports` maps another stack's apps to that stack. `tables` and `buckets` map resources to existing ones that are
    used instead of being made. `alarms` switches their actions; `alarm_email` is the default of the parameter.
    """

    stack: str = ""
    python: Literal["3.11", "3.12", "3.13"] = "3.13"
    architecture: Literal["arm64", "x86_64"] = "arm64"
    memory: int = 512
    timeout: str = "1m"
    functions: dict[str, Function] = {}
    log_retention: str = "30d"
    alarms: bool = True
    alarm_email: str = ""
    tags: dict[str, str] = {}
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    throttle: Throttle = Throttle()
    network: Network | None = None
    exports: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    imports: dict[str, str] = {}
    tables: dict[str, str] = {}
    buckets: dict[str, str] = {}
    uploads: Uploads | None = None
    workers: Workers = Workers()
    console: bool = False
    tracing: bool = False
    keep_data: bool = True
    terraform: Terraform = Terraform()

    def __post_init__(self) -> None:
        for right, problem in self._checks():
            if not right:
                raise ValueError(f"aws.{problem}")

    def _checks(self) -> list[tuple[bool, str]]:
        times = {"timeout": self.timeout, "log_retention": self.log_retention}
        times |= {f"functions.{name}.timeout": one.timeout for name, one in self.functions.items() if one.timeout}
        checks = [(_is_duration(value), f"{name}: {value!r} is not a duration") for name, value in times.items()]
        for name in ("timeout", *(name for name in times if name.startswith("functions."))):
            value = times[name]
            fits = not _is_duration(value) or 1000 <= to_ms(value) <= MAX_TIMEOUT_S * 1000
            checks.append((fits, f"{name}: {value!r} is not between 1s and 15m"))
        stacks = {"stack": self.stack} if self.stack else {}
        stacks |= {f"imports.{app}": stack for app, stack in self.imports.items()}
        checks += [
            (is_stack(stack), f"{name}: {stack!r} is not 2 to 32 lower-case letters, digits and dashes")
            for name, stack in stacks.items()
        ]
        checks += [
            (_VARIABLE.fullmatch(name) is not None, f"env: {name!r} is no name of a variable")
            for name in (*self.env, *self.secrets)
        ]
        checks += [(len(one) == 12 and one.isdigit(), f"accounts: {one!r} is no account") for one in self.accounts]
        return checks

    @property
    def log_days(self) -> int:
        """The shortest time that CloudWatch Logs offers and that is no shorter than `log_retention`."""
        days = -(-to_ms(self.log_retention) // _DAY_MS)
        return next((offered for offered in RETENTION_DAYS if offered >= days), RETENTION_DAYS[-1])


def _is_duration(value: str) -> bool:
    try:
        to_ms(value)
    except HeadwaterError:
        return False
    return True
