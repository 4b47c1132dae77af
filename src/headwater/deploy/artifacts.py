"""The packages of a stack: which there are, of what, and the parameters that tell the stack where they lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from headwater.app import App
from headwater.config import FILE, Config
from headwater.deploy.cloud import Artifacts
from headwater.deploy.cloudformation import to_cloudformation
from headwater.deploy.contents import gather
from headwater.deploy.lock import Target, read_lock
from headwater.deploy.model import Function, Stack
from headwater.deploy.package import Package, build_package
from headwater.deploy.stack import synthesize
from headwater.deploy.text import Token, parse
from headwater.errors import DeclarationError
from headwater.graph import Graph, build_graph
from headwater.system import System


class Kind(msgspec.Struct, frozen=True):
    """A package that functions share; `bucket` and `key` are the parameters that say where it lies."""

    bucket: str
    key: str
    http: bool
    architecture: str


class Built(msgspec.Struct, frozen=True):
    """A package with what it is for."""

    kind: Kind
    package: Package

    @property
    def place(self) -> str:
        """Its key in the bucket, made of its bytes: the same code is never uploaded or deployed twice."""
        served = "http" if self.kind.http else "functions"
        return f"packages/{served}-{self.kind.architecture}-{self.package.digest[:32]}.zip"


class Release(msgspec.Struct, frozen=True):
    """Apps and settings, made ready for AWS."""

    graph: Graph
    config: Config
    stack: Stack
    settings: Path | None = None
    """`headwater.toml`, which functions read, too."""

    @property
    def template(self) -> str:
        return json.dumps(to_cloudformation(self.stack), separators=(",", ":"), sort_keys=True)

    def kinds(self) -> list[Kind]:
        """The packages that the stack's functions need."""
        found: dict[str, Kind] = {}
        for function in (one for one in self.stack.resources if isinstance(one, Function)):
            bucket, key = (_parameter(text) for text in function.code)
            http = ".http." in function.handler
            before = found.get(key)
            found[key] = Kind(bucket, key, http or (before is not None and before.http), function.architecture)
        return [found[key] for key in sorted(found)]

    def build(self, lock: Path, folder: Path, wheels: Path | None = None) -> Iterator[Built]:
        """Build each of them into the folder."""
        locked = read_lock(lock)
        for kind in self.kinds():
            target = Target(kind.architecture, self.config.aws.python)
            contents = gather(self._modules(kind), locked, target, http=kind.http)
            if self.settings is not None:
                contents.files[FILE] = self.settings
            name = f"{kind.key}-{kind.architecture}.zip"
            yield Built(kind, build_package(contents, target, folder / name, wheels=wheels))

    def _modules(self, kind: Kind) -> list[str]:
        modules = [spec.partition(":")[0] for spec in self.config.apps]
        return modules + [app.http_module for app in self.graph.apps if kind.http and app.http_module]


def make_release(apps: Sequence[App[Any]], config: Config, folder: Path) -> Release:
    """Ready the apps; `folder` has `headwater.toml`. Raises `DeclarationError` for what AWS cannot do."""
    graph = build_graph([*apps, System().app])
    settings = folder / FILE
    return Release(graph, config, synthesize(graph, config), settings if settings.is_file() else None)


def code_parameters(built: list[Built], bucket: str) -> dict[str, str]:
    found = {one.kind.key: one.place for one in built}
    return found | {one.kind.bucket: bucket for one in built}


def upload(built: list[Built], artifacts: Artifacts) -> list[Built]:
    """Put those that are not there yet; they are returned."""
    return [one for one in built if artifacts.upload(one.package.path, one.place)]


def _parameter(text: str) -> str:
    match list(parse(text)):
        case [Token("param", name)]:
            return name
    raise DeclarationError(f"{text!r} is no parameter", operation="package")
