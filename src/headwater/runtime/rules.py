"""From settings to the rules of access: the files and variables that they name are read and judged here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from headwater.config import Config
from headwater.errors import DeclarationError
from headwater.http.access import AccessRules
from headwater.http.issuers import FAMILIES, Issuer
from headwater.http.jwks import MIN_RSA_BITS
from headwater.http.tokens import SECRET_BYTES, development_secret
from headwater.runtime.posting import read_secret
from headwater.runtime.scale_targets import ScaleRules
from headwater.runtime.webhooks import WebhookRules
from headwater.webhooks import secret_key

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KINDS: dict[str, tuple[type, ...]] = {
    "RS": (RSAPublicKey,),
    "ES": (EllipticCurvePublicKey,),
    "Ed": (Ed25519PublicKey, Ed448PublicKey),
}


def access_rules(config: Config, environ: Mapping[str, str] | None = None) -> AccessRules:
    """The rules of access that the settings declare.

    Raises `DeclarationError` naming the issuer whose key is missing, too short or of the wrong kind.
    """
    variables = os.environ if environ is None else environ
    issuers = {name: _with_keys(name, issuer, variables) for name, issuer in config.issuers.items()}
    developing = [name for name, issuer in issuers.items() if issuer.development]
    secret = development_secret(Path(config.development_key_file)) if developing else b""
    return AccessRules(
        environment=config.environment,
        issuers=issuers,
        plans=config.plans,
        keys=config.keys,
        secrets=dict.fromkeys(developing, secret),
    )


def webhook_rules(config: Config) -> WebhookRules:
    """Where webhooks may go, and the key of their secrets."""
    return WebhookRules(config.webhooks, Path(config.secret_key_file))


def scale_rules(config: Config, environ: Mapping[str, str] | None = None) -> ScaleRules:
    """Where wanted numbers of workers go. Raises `DeclarationError` when the webhook's secret is not there, or none."""
    secret = read_secret(config.scale_secret, os.environ if environ is None else environ, "scale_secret")
    if config.scale_webhook:
        secret_key(secret)
    return ScaleRules(config.scale_command, config.scale_webhook, secret)


def _with_keys(name: str, issuer: Issuer, variables: Mapping[str, str]) -> Issuer:
    if issuer.secret:
        return msgspec.structs.replace(issuer, secret=_secret(name, issuer.secret, variables))
    if issuer.key:
        return msgspec.structs.replace(issuer, key=_public_key(name, issuer))
    if issuer.jwks:
        _check_url(name, issuer.jwks)
    return issuer


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise _wrong(name, f"jwks is no URL: {error}") from error
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        raise _wrong(name, "jwks must be an https URL: whoever can change the keys can sign tokens")


def _secret(name: str, text: str, variables: Mapping[str, str]) -> str:
    if text.startswith("env:"):
        variable = text.removeprefix("env:")
        if variable not in variables:
            raise _wrong(name, f"the variable {variable} is not set")
        text = variables[variable]
    if len(text.encode()) < SECRET_BYTES:
        raise _wrong(name, f"the secret has fewer than {SECRET_BYTES} bytes")
    return text


def _public_key(name: str, issuer: Issuer) -> str:
    text = issuer.key
    if "-----BEGIN" not in text:
        try:
            text = Path(text).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _wrong(name, f"the key cannot be read: {error}") from error
    family = next(family for family, known in FAMILIES.items() if issuer.accepted[0] in known)
    try:
        loaded = load_pem_public_key(text.encode())
    except ValueError as error:
        raise _wrong(name, "the key is no public key in PEM form") from error
    if not isinstance(loaded, _KINDS[family]):
        raise _wrong(name, f"the key does not fit the algorithms {', '.join(issuer.accepted)}")
    if isinstance(loaded, RSAPublicKey) and loaded.key_size < MIN_RSA_BITS:
        raise _wrong(name, f"the RSA key has fewer than {MIN_RSA_BITS} bits")
    return text


def _wrong(issuer: str, why: str) -> DeclarationError:
    return DeclarationError(why, operation="configure", resource=f"issuers.{issuer}")
