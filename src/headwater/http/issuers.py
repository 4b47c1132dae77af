"""Credentials as declared in `headwater.toml`: issuers of tokens, and API keys."""

from __future__ import annotations

from typing import Annotated

import msgspec

from headwater.durations import to_ms
from headwater.errors import HeadwaterError

FAMILIES = {
    "HS": ("HS256", "HS384", "HS512"),
    "RS": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "ES": ("ES256", "ES384", "ES512"),
    "Ed": ("EdDSA",),
}


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One issuer. Its keys come from one of: `jwks` (a URL), `key` (a PEM public key, or the path of a file with
    one), `secret` (HS* only; "env:NAME" reads a variable), `development` (a secret made on this machine, for
    `headwater token`).

    `issuer` and `audience` are compared with `iss` and `aud`, both required (`development` has defaults).
    `algorithms` are of one family. `roles`, `subject` and `tenant` are the claims that make the caller: a name, or
    a path such as "realm_access.roles"; roles are a list or a text with spaces. `leeway` is for `exp` and `nbf`.
    """

    issuer: str = ""
    audience: str = ""
    jwks: str = ""
    key: str = ""
    secret: str = ""
    development: bool = False
    algorithms: tuple[str, ...] = ()
    roles: str | tuple[str, ...] = "roles"
    subject: str = "sub"
    tenant: str = ""
    leeway: str = "30s"

    def __post_init__(self) -> None:
        sources = [name for name in ("jwks", "key", "secret") if getattr(self, name)] + [
            "development"
        ] * self.development
        if len(sources) != 1:
            raise ValueError("give exactly one of jwks, key, secret and development")
        if not self.development and not (self.issuer and self.audience):
            raise ValueError("give issuer and audience: tokens of others or for others must be refused")
        families = {family for family, names in FAMILIES.items() for name in self.algorithms if name in names}
        unknown = [name for name in self.algorithms if not any(name in names for names in FAMILIES.values())]
        if unknown or len(families) > 1:
            known = ", ".join(name for names in FAMILIES.values() for name in names)
            raise ValueError(f"algorithms: give some of one family, out of {known}")
        if families and (families == {"HS"}) != bool(self.secret or self.development):
            raise ValueError("algorithms: HS* go with a secret, all others with a public key")
        try:
            to_ms(self.leeway)
        except HeadwaterError as error:
            raise ValueError(f"leeway: {error.message}") from error

    @property
    def accepted(self) -> tuple[str, ...]:
        """The algorithms whose signatures are taken."""
        return self.algorithms or (("HS256",) if self.secret or self.development else ("RS256",))

    @property
    def role_claims(self) -> tuple[str, ...]:
        return (self.roles,) if isinstance(self.roles, str) else self.roles


class KeySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An API key by its digest, as `headwater key create --declare` prints it."""

    id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{12}$")]
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    plan: str = ""
    roles: tuple[str, ...] = ()
    tenant: str = ""
