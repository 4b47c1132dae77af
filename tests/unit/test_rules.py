"""The rules of access that settings give: keys of issuers are read and judged at the start."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from headwater.config import Config
from headwater.errors import DeclarationError
from headwater.http.access import AccessRules
from headwater.http.issuers import Issuer
from headwater.http.tokens import development_secret
from headwater.runtime.rules import access_rules

RSA = rsa.generate_private_key(65537, 2048)
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def rules(issuer: Issuer, **variables: str) -> AccessRules:
    return access_rules(Config(issuers={"main": issuer}), variables)


def refused(issuer: Issuer, **variables: str) -> str:
    with pytest.raises(DeclarationError) as caught:
        rules(issuer, **variables)
    assert caught.value.resource == "issuers.main"
    return caught.value.message


def with_secret(secret: str) -> Issuer:
    return Issuer(issuer="i", audience="a", secret=secret)


def with_key(key: str, *algorithms: str) -> Issuer:
    return Issuer(issuer="i", audience="a", key=key, algorithms=algorithms)


def with_jwks(url: str) -> Issuer:
    return Issuer(issuer="i", audience="a", jwks=url)


def test_a_secret_comes_from_the_file_or_a_variable() -> None:
    assert rules(with_secret("s" * 32)).issuers["main"].secret == "s" * 32
    assert rules(with_secret("env:SIGNING"), SIGNING="t" * 40).issuers["main"].secret == "t" * 40
    assert refused(with_secret("env:SIGNING")) == "the variable SIGNING is not set"
    assert refused(with_secret("s" * 31)) == "the secret has fewer than 32 bytes"
    assert refused(with_secret("env:SIGNING"), SIGNING="short") == "the secret has fewer than 32 bytes"


def test_a_public_key_is_given_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem(RSA))
    assert rules(with_key(pem(RSA))).issuers["main"].key == pem(RSA)
    assert rules(with_key(str(tmp_path / "key.pem"))).issuers["main"].key == pem(RSA)
    assert refused(with_key(str(tmp_path / "none.pem"))).startswith("the key cannot be read: ")


def test_a_key_must_be_public_strong_and_of_its_family() -> None:
    curve, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert refused(with_key(private)) == "the key is no public key in PEM form"
    assert refused(with_key("-----BEGIN nonsense")) == "the key is no public key in PEM form"
    assert refused(with_key(pem(curve))) == "the key does not fit the algorithms RS256"
    assert refused(with_key(pem(RSA), "ES256")) == "the key does not fit the algorithms ES256"
    assert refused(with_key(pem(RSA), "EdDSA")) == "the key does not fit the algorithms EdDSA"
    weak = rsa.generate_private_key(65537, 1024)
    assert refused(with_key(pem(weak))) == "the RSA key has fewer than 2048 bits"
    for key, algorithm in ((RSA, "PS512"), (curve, "ES256"), (edwards, "EdDSA")):
        assert rules(with_key(pem(key), algorithm)).issuers["main"].key == pem(key)


@pytest.mark.parametrize("url", ["https://login.example/keys", "http://127.0.0.1:9/k", "http://[::1]/k"])
def test_keys_are_fetched_over_https_or_from_this_machine(url: str) -> None:
    assert rules(with_jwks(url)).issuers["main"].jwks == url


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://localhost.evil.example/keys",
        "http://localhost@evil.example/keys",
        "http://127.0.0.1:80@evil.example/keys",
        "file:///etc/passwd",
        "https:///keys",
        "keys.json",
        "http://[::1",
    ],
)
def test_keys_from_elsewhere_are_refused(url: str) -> None:
    assert refused(with_jwks(url)).startswith("jwks ")


def test_the_development_secret_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "below" / "development.key"
    assert not access_rules(Config(development_key_file=str(path)), {}).secrets
    assert not path.exists()
    config = Config(issuers={"local": Issuer(development=True)}, development_key_file=str(path))
    made = access_rules(config, {}).secrets
    assert set(made) == {"local"}
    assert len(made["local"]) >= 32
    assert access_rules(config, {}).secrets == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["development.key"]


def test_two_that_make_the_development_secret_have_the_same(tmp_path: Path) -> None:
    for n in range(20):
        path, gate, found = tmp_path / str(n), threading.Barrier(4), set[bytes]()

        def make(path: Path = path, gate: threading.Barrier = gate, found: set[bytes] = found) -> None:
            gate.wait()
            found.add(development_secret(path))

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
        assert len(found.pop()) == 64


def test_an_empty_development_secret_signs_nothing(tmp_path: Path) -> None:
    (tmp_path / "development.key").write_bytes(b"")
    with pytest.raises(DeclarationError, match="no secret"):
        development_secret(tmp_path / "development.key")
