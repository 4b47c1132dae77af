"""Issuers and declared keys: what headwater.toml may say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from headwater.config import Config, load_config
from headwater.errors import DeclarationError
from headwater.http.issuers import Issuer, KeySpec

JWKS = {"issuer": "https://login.example", "audience": "api", "jwks": "https://login.example/keys"}
SECRET = {"issuer": "https://login.example", "audience": "api", "secret": "s" * 32}


def load(folder: Path, text: str, environment: str = "") -> Config:
    (folder / "headwater.toml").write_text(text, "utf-8")
    return load_config(folder, environment=environment, environ={})


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        (JWKS, ("RS256",)),
        ({**JWKS, "algorithms": ["ES256", "ES384"]}, ("ES256", "ES384")),
        ({**JWKS, "algorithms": ["EdDSA"]}, ("EdDSA",)),
        (SECRET, ("HS256",)),
        ({**SECRET, "algorithms": ["HS512"]}, ("HS512",)),
        ({"development": True}, ("HS256",)),
    ],
)
def test_an_issuer_accepts_algorithms_of_one_family(values: dict[str, Any], accepted: tuple[str, ...]) -> None:
    assert msgspec.convert(values, Issuer).accepted == accepted


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"issuer": "i", "audience": "a"}, "exactly one of jwks, key, secret and development"),
        ({**JWKS, "secret": "s" * 32}, "exactly one of"),
        ({**JWKS, "development": True}, "exactly one of"),
        ({**JWKS, "issuer": ""}, "issuer and audience"),
        ({**JWKS, "audience": ""}, "issuer and audience"),
        ({**JWKS, "algorithms": ["HS256"]}, "HS\\* go with a secret"),
        ({**JWKS, "algorithms": ["RS256", "ES256"]}, "one family"),
        ({**JWKS, "algorithms": ["RS256", "HS256"]}, "one family"),
        ({**JWKS, "algorithms": ["none"]}, "one family"),
        ({**JWKS, "algorithms": ["RS256", "none"]}, "one family"),
        ({**JWKS, "algorithms": ["rs256"]}, "one family"),
        ({**SECRET, "algorithms": ["RS256"]}, "HS\\* go with a secret"),
        ({"development": True, "algorithms": ["ES256"]}, "HS\\* go with a secret"),
        ({**JWKS, "leeway": "soon"}, "leeway"),
        ({**JWKS, "rolse": "x"}, "rolse"),
    ],
)
def test_a_wrong_issuer_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(values, Issuer)


@pytest.mark.parametrize(
    "values", [{"digest": "0" * 63}, {"digest": "é" * 64}, {"digest": "A" * 64}, {"id": "short"}, {"id": "A" * 12}]
)
def test_a_declared_key_has_an_id_and_a_digest(values: dict[str, str]) -> None:
    good = {"id": "a" * 12, "digest": "0" * 64}
    assert msgspec.convert(good, KeySpec).id == "a" * 12
    with pytest.raises(msgspec.ValidationError, match="matching regex"):
        msgspec.convert({**good, **values}, KeySpec)


def test_a_wrong_setting_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"one family.*\$\.issuers"):
        load(tmp_path, '[default.issuers.a]\njwks = "https://x/y"\nissuer = "i"\naudience = "a"\nalgorithms = ["x"]\n')
    with pytest.raises(DeclarationError, match=r"no time zone 'Here'.*\$\.plans"):
        load(tmp_path, '[default.plans.free]\nquota = 1\ntz = "Here"\n')


def test_development_issuers_stay_in_the_section_that_declares_them(tmp_path: Path) -> None:
    text = (
        "[default.issuers.local]\ndevelopment = true\n"
        '[default.issuers.main]\njwks = "https://login.example/keys"\nissuer = "i"\naudience = "a"\n'
        "[live]\nport = 1\n[staging.issuers.own]\ndevelopment = true\n"
    )
    assert set(load(tmp_path, text).issuers) == {"local", "main"}
    assert set(load(tmp_path, text, "live").issuers) == {"main"}
    assert set(load(tmp_path, text, "staging").issuers) == {"own"}


def test_the_file_of_a_key_is_relative_to_the_settings(tmp_path: Path) -> None:
    head = '[default.issuers.a]\nissuer = "i"\naudience = "a"\n'
    assert load(tmp_path, head + 'key = "keys/a.pem"\n').issuers["a"].key == str(tmp_path / "keys/a.pem")
    pem = "-----BEGIN PUBLIC KEY-----"
    assert load(tmp_path, head + f'key = "{pem}"\n').issuers["a"].key == pem
