"""The server's settings: `headwater.toml`, a section per environment, and `HEADWATER_*`."""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from headwater.durations import to_ms
from headwater.errors import DeclarationError, HeadwaterError

FILE = "headwater.toml"
DEFAULT_STORE = "sqlite:.headwater"
_SOCKET_PATH_MAX = 100
"""Unix socket paths are limited to about 104 bytes (sockaddr_un)."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one environment. Paths are relative to the folder of `headwater.toml`.

    `history` is how long events are kept after their messages are done, `history_events` how many at the most;
    `drain` bounds a graceful stop.
    """

    apps: tuple[str, ...] = ()
    store: str = DEFAULT_STORE
    host: str = "127.0.0.1"
    port: int = 8000
    history: str = "7d"
    history_events: int = 5_000_000
    drain: str = "10s"
    services: dict[str, str] = {}

    def __post_init__(self) -> None:
        for name in ("history", "drain"):
            try:
                to_ms(getattr(self, name))
            except HeadwaterError as error:
                raise ValueError(f"{name}: {error.message}") from error
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not between 0 and 65535")

    @property
    def history_ms(self) -> int:
        return to_ms(self.history)

    @property
    def drain_s(self) -> float:
        return to_ms(self.drain) / 1000


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
    merged = {"store": DEFAULT_STORE, **sections.get("default", {}), **sections.get(chosen, {})}
    if isinstance(merged["store"], str):
        merged["store"] = absolute_store(merged["store"], folder)
    merged.update(_from_environment(variables))
    try:
        return msgspec.convert(merged, Config, strict=False)
    except msgspec.ValidationError as error:
        raise DeclarationError(
            str(error),
            operation="configure",
            resource=str(folder / FILE),
            hint=f"the settings are {', '.join(Config.__struct_fields__)}",
        ) from error


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
    for name in ("store", "host", "port", "history", "history_events", "drain"):
        if value := variables.get(f"HEADWATER_{name.upper()}"):
            found[name] = absolute_store(value, Path.cwd()) if name == "store" else value
    if apps := variables.get("HEADWATER_APPS"):
        found["apps"] = [app.strip() for app in apps.split(",")]
    return found


def admin_socket(store: str) -> Path:
    """Where the process that owns a store listens for the admin API."""
    folder = Path(store.partition(":")[2].removeprefix("//")).resolve()
    path = folder / "admin.sock"
    if len(os.fsencode(path)) < _SOCKET_PATH_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"headwater-{digest}.sock"
