"""Who mail goes to and who takes it: addresses, and the section `smtp` of the settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from headwater.durations import to_ms
from headwater.errors import DeclarationError, HeadwaterError

Addresses: TypeAlias = str | Sequence[str] | None
Security = Literal["starttls", "tls", "none"]
PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
_MAX_ADDRESS, _MAX_LOCAL = 254, 64
"""RFC 5321 §4.5.3.1."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_is_local_part = re.compile(r'[^\s.<>()\[\],;:\\"@]+(\.[^\s.<>()\[\],;:\\"@]+)*').fullmatch
_is_domain = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.IGNORECASE).fullmatch


def check_address(address: str) -> str:
    """The address (`local@domain`, no display name), its domain in ASCII. Raises `DeclarationError`."""
    local, at, domain = address.rpartition("@")
    try:
        ascii_domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_domain = ""
    whole = f"{local}@{ascii_domain}"
    size = len(whole.encode("utf-8", "surrogatepass"))
    if not (
        at
        and whole.isprintable()
        and _is_local_part(local)
        and len(local.encode("utf-8")) <= _MAX_LOCAL
        and _is_domain(ascii_domain)
        and size <= _MAX_ADDRESS
    ):
        raise DeclarationError(
            f"{address!r} is no mail address", operation="declare mail", hint='write it like "ops@example.org"'
        )
    return whole


def check_addresses(given: Addresses) -> list[str]:
    """Each address once, checked; none for "" and None."""
    addresses = [given] if isinstance(given, str) else list(given or ())
    return list(dict.fromkeys(check_address(address.strip()) for address in addresses if address))


class Smtp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `smtp`: the server that takes mail, and from whom it is. `password` may be "env:NAME"."""

    host: str
    sender: str
    port: int = 0
    security: Security = "starttls"
    username: str = ""
    password: str = ""
    timeout: str = "30s"

    def __post_init__(self) -> None:
        try:
            check_address(self.sender)
            if to_ms(self.timeout) < 1:
                raise ValueError("timeout must be more than 0")
        except HeadwaterError as error:
            raise ValueError(error.message) from error
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not between 0 and 65535")
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password go together: give both or none")
        if self.password and self.security == "none" and self.host not in _LOOPBACK:
            raise ValueError('with security = "none" the password would be sent for everyone to read')

    def __repr__(self) -> str:
        return f"Smtp({self.host!r})"


class SesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `ses`: Amazon SES takes the mail, from a verified identity, by the account of the environment."""

    sender: str
    configuration_set: str = ""
    timeout: str = "30s"

    def __post_init__(self) -> None:
        try:
            check_address(self.sender)
            if to_ms(self.timeout) < 1:
                raise ValueError("timeout must be more than 0")
        except HeadwaterError as error:
            raise ValueError(error.message) from error
