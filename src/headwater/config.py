"""The server's settings: `headwater.toml`, a section per environment, and `HEADWATER_*`."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from headwater.aws.settings import Aws
from headwater.durations import to_ms
from headwater.errors import DeclarationError, HeadwaterError
from headwater.http.addresses import EgressRules
from headwater.http.issuers import Issuer, KeySpec
from headwater.http.limits import Cors, Limits
from headwater.mail_settings import SesSettings, Smtp, check_addresses
from headwater.quota import Plan
from headwater.store_url import is_file_store, shown_store
from headwater.tuning import Tuning, built_in_alarms

FILE = "headwater.toml"
DEFAULT_STORE = "sqlite:.headwater"
_PLACES = {
    "store": DEFAULT_STORE,
    "development_key_file": ".headwater/development.key",
    "secret_key_file": ".headwater/secret.key",
}
_FILES = frozenset({"development_key_file", "secret_key_file", "tls_cert", "tls_key"})
"""Settings that are paths, relative to the folder of `headwater.toml`."""
MAX_WORKERS = 256
_SOCKET_PATH_MAX = 100
"""Unix socket paths are limited to about 104 bytes (sockaddr_un)."""


class Console(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the console is served, "" for not at all; who may sign in; under which further names it is reached.

    Without an address it is 127.0.0.1:8001, or the next free port. `tokens` maps tokens, or "env:NAME", to roles.
    `hidden` are the names of fields that it shows of no document.
    """

    address: str | None = None
    tokens: dict[str, Literal["viewer", "operator"]] = {}
    hosts: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one environment. Paths are relative to the folder of `headwater.toml`.

    `objects` is where buckets keep their bytes: a folder, by default `objects` beside the SQLite store, or
    "s3://bucket/prefix"; `objects_shared` says that all hosts see the same folder. `history` is how long events are
    kept after their messages are done, `history_events` how many at the most; `drain` bounds a graceful stop.
    `environment` is the name in API keys, by default the section's.
    `development_key_file` has the secret of development issuers, `secret_key_file` the key that encrypts secrets in
    the store; both are made when they are first needed. `webhooks` says where webhooks may go.
    `proxies` are the addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. With
    `tls_cert` and `tls_key` (PEM files) the server speaks TLS. `public_url` is the address by which clients know the
    server; presigned URLs begin with it. `smtp` is the server that takes mail, or `ses` Amazon SES; `alerts` are the
    addresses that Headwater's own alarms are mailed to. `trace_sample` is the share of traces whose spans are kept,
    `otlp` the base URL of an OpenTelemetry collector that gets them, too. `workers` is how many worker processes the
    server runs for each handler with `run_in="process"`. What a `Scale` asks for goes to `scale_command`, a program and
    its arguments, or to the URL `scale_webhook`, signed with `scale_secret`, instead of to worker processes of the
    server. `aws` is for an environment there: `headwater synth aws`.
    """

    apps: tuple[str, ...] = ()
    store: str = DEFAULT_STORE
    objects: str = ""
    objects_shared: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    history: str = "7d"
    history_events: int = 5_000_000
    drain: str = "10s"
    services: dict[str, str] = {}
    environment: str = "default"
    issuers: dict[str, Issuer] = {}
    plans: dict[str, Plan] = {}
    keys: dict[str, KeySpec] = {}
    development_key_file: str = ".headwater/development.key"
    secret_key_file: str = ".headwater/secret.key"
    webhooks: EgressRules = EgressRules()
    limits: Limits = Limits()
    cors: Cors = Cors()
    proxies: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    public_url: str = ""
    smtp: Smtp | None = None
    ses: SesSettings | None = None
    alerts: str | tuple[str, ...] = ()
    metrics: str = ""
    console: Console = Console()
    trace_sample: float = 0.01
    otlp: str = ""
    alarms: dict[str, bool | Tuning] = {}
    workers: int = 1
    scale_command: tuple[str, ...] = ()
    scale_webhook: str = ""
    scale_secret: str = ""
    aws: Aws = Aws()

    def __post_init__(self) -> None:
        for name in ("history", "drain"):
            try:
                to_ms(getattr(self, name))
            except HeadwaterError as error:
                raise ValueError(f"{name}: {error.message}") from error
        for is_right, problem in self._checks():
            if not is_right:
                raise ValueError(problem)
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"proxies: {error}") from error
        try:
            check_addresses(self.alerts)
        except HeadwaterError as error:
            raise ValueError(f"alerts: {error.message}") from error
        try:
            built_in_alarms(self.alarms)
        except HeadwaterError as error:
            raise ValueError(f"{error.resource or 'alarms'}: {error.message}") from error
        if self.metrics:
            self.metrics_address  # noqa: B018
        if self.console.address:
            address_of("console", self.console.address)

    def _checks(self) -> Iterator[tuple[bool, str]]:
        yield 0 <= self.port <= 65535, f"port: {self.port} is not between 0 and 65535"
        yield 0 <= self.workers <= MAX_WORKERS, f"workers: {self.workers} is not between 0 and {MAX_WORKERS}"
        yield 0 <= self.trace_sample <= 1, f"trace_sample: {self.trace_sample} is not between 0 and 1"
        for name, like in (("otlp", "http://collector:4318"), ("public_url", "https://api.example")):
            url = getattr(self, name)
            yield not url or _is_base_url(url), f'{name}: {url!r} is not like "{like}"'
        for one, other in (("tls_cert", "tls_key"), ("scale_webhook", "scale_secret")):
            both = bool(getattr(self, one)) == bool(getattr(self, other))
            yield both, f"{one} and {other} go together: give both or none"
        yield not (self.scale_command and self.scale_webhook), "give scale_command or scale_webhook, not both"
        yield self.smtp is None or self.ses is None, "give smtp or ses, not both"

    @property
    def objects_url(self) -> str:
        """The URL of the blob store; "" when none is set and the store is no folder."""
        if not self.objects and not is_file_store(self.store):
            return ""
        return self.objects or str(Path(self.store.partition(":")[2].removeprefix("//")) / "objects")

    @property
    def metrics_address(self) -> tuple[str, int]:
        """(host, port) of `metrics`; raises `ValueError` when it is no address."""
        return address_of("metrics", self.metrics)

    @property
    def history_ms(self) -> int:
        return to_ms(self.history)

    @property
    def drain_s(self) -> float:
        return to_ms(self.drain) / 1000


def address_of(setting: str, address: str) -> tuple[str, int]:
    """(host, port) of a setting; raises `ValueError` when it is no address."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'{setting}: {address!r} is not like "127.0.0.1:9464"')
    return host.strip("[]"), int(port)


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:
        return False


def load_config(folder: Path, *, environment: str = "", environ: Mapping[str, str] | None = None) -> Config:
    """`[default]`, overlaid by the environment's section, overlaid by `HEADWATER_STORE` and the like.

    The environment is the argument, or `HEADWATER_ENV`, or "default". A store in the file is relative to its folder,
    one in a variable to the working folder. Raises `DeclarationError` naming the file and setting that is wrong.
    """
    variables = os.environ if environ is None else environ
    chosen = environment or variables.get("HEADWATER_ENV") or "default"
    sections = _read(folder / FILE)
    if chosen != "default" and chosen not in sections:
        raise DeclarationError(f"there is no section [{chosen}]", operation="configure", resource=str(folder / FILE))
    merged = {**_PLACES, "environment": chosen, **_inherited(sections, chosen), **sections.get(chosen, {})}
    if isinstance(merged["store"], str):
        merged["store"] = absolute_store(merged["store"], folder)
    if isinstance(objects := merged.get("objects"), str) and objects and "://" not in objects:
        merged["objects"] = str(folder / objects)
    for name in _FILES & merged.keys():
        if isinstance(merged[name], str) and merged[name]:
            merged[name] = str(folder / merged[name])
    for issuer in _tables(merged.get("issuers")):
        key = issuer.get("key")
        if isinstance(key, str) and key and "-----BEGIN" not in key:
            issuer["key"] = str(folder / key)
    given = _from_environment(variables)
    if isinstance(console := merged.get("console"), dict) and "console" in given:
        given["console"] = {**console, **given["console"]}
    merged.update(given)
    try:
        return msgspec.convert(merged, Config, strict=False)
    except msgspec.ValidationError as error:
        raise DeclarationError(
            str(error),
            operation="configure",
            resource=str(folder / FILE),
            hint=f"the settings are {', '.join(Config.__struct_fields__)}",
        ) from error


def _tables(section: Any) -> list[dict[str, Any]]:
    """The tables of a section that should have nothing else."""
    return [table for table in section.values() if isinstance(table, dict)] if isinstance(section, dict) else []


def _inherited(sections: Mapping[str, dict[str, Any]], chosen: str) -> dict[str, Any]:
    """What `[default]` gives to an environment: all but its development issuers."""
    default = sections.get("default", {})
    issuers = default.get("issuers")
    if chosen == "default" or not isinstance(issuers, dict):
        return default
    kept = {n: i for n, i in issuers.items() if not (isinstance(i, dict) and i.get("development"))}
    return {**default, "issuers": kept}


def find_folder(start: Path) -> Path:
    """The nearest folder, from `start` upwards, that holds a `headwater.toml`; `start` itself when none does."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if (folder / FILE).is_file()), start)


def absolute_store(url: str, folder: Path) -> str:
    """A store's URL with the folder that a relative path in it starts from."""
    scheme, separator, rest = url.partition(":")
    if scheme != "sqlite" or not rest:
        return url
    return f"{scheme}{separator}{folder.resolve() / rest.removeprefix('//')}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        sections = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DeclarationError(str(error), operation="configure", resource=str(path)) from error
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise DeclarationError(
                f"{name!r} stands outside of a section",
                operation="configure",
                resource=str(path),
                hint="write it under [default] or under an environment's section",
            )
    return sections


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (
        "store",
        "host",
        "port",
        "history",
        "history_events",
        "drain",
        "trace_sample",
        "otlp",
        "workers",
        "public_url",
    ):
        if value := variables.get(f"HEADWATER_{name.upper()}"):
            found[name] = absolute_store(value, Path.cwd()) if name == "store" else value
    if shared := variables.get("HEADWATER_OBJECTS_SHARED"):
        found["objects_shared"] = shared
    if objects := variables.get("HEADWATER_OBJECTS"):
        found["objects"] = objects if "://" in objects else str(Path.cwd() / objects)
    if key := variables.get("HEADWATER_SECRET_KEY_FILE"):
        found["secret_key_file"] = str(Path.cwd() / key)
    if (address := variables.get("HEADWATER_CONSOLE_ADDRESS")) is not None:
        found["console"] = {"address": address}
    if sender := variables.get("HEADWATER_MAIL_FROM"):
        found["ses"] = {"sender": sender}
    if apps := variables.get("HEADWATER_APPS"):
        found["apps"] = [app.strip() for app in apps.split(",")]
    return found


def admin_socket(store: str) -> Path:
    """Where this process listens for the admin API, once it is a server of the store."""
    return _socket(store, "admin.sock") if is_file_store(store) else _shared_socket(store, str(os.getpid()))


def admin_sockets(store: str) -> list[Path]:
    """Where servers of the store on this machine may listen, the newest first: a killed one leaves its socket."""
    if is_file_store(store):
        return [admin_socket(store)]
    with contextlib.suppress(OSError):
        found = _shared_socket(store, "*")
        return sorted(found.parent.glob(found.name), key=lambda path: path.lstat().st_mtime, reverse=True)
    return []


def worker_socket(store: str) -> Path:
    """Where the process that owns a store listens for worker processes."""
    return _socket(store, "workers.sock")


def _socket(store: str, name: str) -> Path:
    folder = Path(store.partition(":")[2].removeprefix("//")).resolve()
    path = folder / name
    if len(os.fsencode(path)) < _SOCKET_PATH_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"headwater-{digest}.sock"


def _shared_socket(store: str, process: str) -> Path:
    """In a folder that is this user's alone; `shown_store` tells one store from another."""
    digest = hashlib.sha256(shown_store(store).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"headwater-{os.getuid()}" / f"{digest}-{process}.sock"
