"""`headwater token`: tokens of the local development issuer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import Env, read_object
from headwater.config import find_folder, load_config
from headwater.durations import to_ms


def token(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Who calls: the issuer's subject claim.")],
    *,
    role: Annotated[list[str] | None, typer.Option("--role", metavar="ROLE", help="A role; may be repeated.")] = None,
    claims: Annotated[
        str | None, typer.Option("--claims", metavar="JSON", help="More claims; - and @FILE as for values.")
    ] = None,
    valid: Annotated[str, typer.Option("--valid", metavar="DURATION", help="For how long.")] = "1h",
    env: Env = "",
) -> None:
    """Mint a bearer token for trying things out. Needs an issuer with `development = true` in headwater.toml."""
    from headwater.http.tokens import development_secret, mint

    config = load_config(find_folder(Path.cwd()), environment=env)
    issuer = next((issuer for issuer in config.issuers.values() if issuer.development), None)
    if issuer is None:
        raise UsageError(
            f"the environment {config.environment!r} has no development issuer",
            "write `development = true` under [default.issuers.local] in headwater.toml",
        )
    told: dict[str, Any] = read_object(claims, "--claims") if claims else {}
    _put(told, issuer.subject, subject)
    if role:
        _put(told, issuer.role_claims[0], role)
    secret = development_secret(Path(config.development_key_file))
    print(mint(told, secret, issuer, now_s=time.time(), valid_s=to_ms(valid) / 1000))


def _put(claims: dict[str, Any], path: str, value: Any) -> None:
    """Set a claim where the issuer's settings say that it is."""
    *outer, last = path.split(".")
    for name in outer:
        claims = claims.setdefault(name, {})
        if not isinstance(claims, dict):
            raise UsageError(f"--claims: {name} is no object", f"the issuer reads {path}")
    claims[last] = value
