"""What the server takes at the most: the sections `[….limits]` and `[….cors]` of `headwater.toml`."""

from __future__ import annotations

import msgspec

from headwater.durations import to_ms
from headwater.errors import HeadwaterError

_DURATIONS = ("header_timeout", "body_timeout", "request_timeout")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes in bytes. `inflated_ratio` is how much larger than sent a compressed body may be, `requests` how many run
    at the same time, `connections` how many are open.

    `header_timeout` is for the whole head of a request, `body_timeout` for its body (plus a second for each 64 KiB
    that has come), `request_timeout` from there until the response starts.
    """

    headers: int = 64 * 1024
    body: int = 16 * 1024 * 1024
    json_depth: int = 64
    number_digits: int = 100
    inflated_ratio: int = 100
    requests: int = 512
    connections: int = 10_000
    header_timeout: str = "10s"
    body_timeout: str = "10s"
    request_timeout: str = "30s"

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name in _DURATIONS:
                _check_duration(name, getattr(self, name))
            elif getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")

    @property
    def header_timeout_s(self) -> float:
        return to_ms(self.header_timeout) / 1000

    @property
    def body_timeout_s(self) -> float:
        return to_ms(self.body_timeout) / 1000

    @property
    def request_timeout_s(self) -> float:
        return to_ms(self.request_timeout) / 1000


class Cors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pages of other origins may call the apps from a browser. Without origins none may.

    `origins` are such as "https://shop.example", or "*" for all; `methods` and `headers` what such a call may use.
    With `credentials` the browser sends its cookies. `max_age` is how long it keeps the permission.
    """

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    headers: tuple[str, ...] = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match")
    credentials: bool = False
    max_age: str = "10m"

    def __post_init__(self) -> None:
        _check_duration("max_age", self.max_age)
        for origin in self.origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise ValueError(f'origins: {origin!r} is not like "https://shop.example"')
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials: name the origins; with "*" any page could act for its visitor')

    @property
    def max_age_s(self) -> int:
        return to_ms(self.max_age) // 1000


def _check_duration(name: str, value: str) -> None:
    try:
        positive = to_ms(value) > 0
    except HeadwaterError as error:
        raise ValueError(f"{name}: {error.message}") from error
    if not positive:
        raise ValueError(f"{name}: {value!r} is no time at all")
