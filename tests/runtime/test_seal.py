"""Secrets at rest: sealed with a key that is in a file of its owner or in a variable, never in the store."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from headwater.errors import StoreError
from headwater.runtime.seal import VARIABLE, Seal

TEXT = "whsec_canary"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_what_is_sealed_is_opened_with_the_key_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "secret.key"
    sealed = Seal(path).seal(TEXT, "row 1")
    assert Seal(path).open(sealed, "row 1") == TEXT
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["secret.key"]
    assert b"canary" not in base64.b64decode(sealed)


def test_equal_texts_are_sealed_differently(tmp_path: Path) -> None:
    seal = Seal(tmp_path / "key")
    assert seal.seal(TEXT, "row 1") != seal.seal(TEXT, "row 1")


def test_each_change_is_refused(tmp_path: Path) -> None:
    seal = Seal(tmp_path / "key")
    raw = base64.b64decode(seal.seal(TEXT, "row 1"))
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(StoreError, match="altered"):
            seal.open(base64.b64encode(changed).decode(), "row 1")


def test_it_is_of_no_use_for_another_purpose(tmp_path: Path) -> None:
    seal = Seal(tmp_path / "key")
    with pytest.raises(StoreError):
        seal.open(seal.seal(TEXT, "row 1"), "row 2")


def test_another_key_does_not_open_it(tmp_path: Path) -> None:
    sealed = Seal(tmp_path / "one").seal(TEXT, "row 1")
    Seal(tmp_path / "two").seal(TEXT, "row 1")
    with pytest.raises(StoreError, match="another key") as raised:
        Seal(tmp_path / "two").open(sealed, "row 1")
    assert "secret_key_file" in raised.value.hint


def test_opening_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no secret key"):
        Seal(tmp_path / "key").open("AAAA", "row 1")
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_the_variable_is_used_and_no_file_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, base64.b64encode(bytes(range(32))).decode())
    sealed = Seal(tmp_path / "key").seal(TEXT, "row 1")
    assert Seal(tmp_path / "other").open(sealed, "row 1") == TEXT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "canary", base64.b64encode(b"canary" * 3).decode()])
def test_a_key_that_is_none_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(StoreError, match="base64 of 32 bytes") as raised:
        Seal(path).seal(TEXT, "row 1")
    assert "canary" not in str(raised.value)


def test_a_key_made_meanwhile_by_another_process_is_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    sealed = Seal(path).seal(TEXT, "row 1")
    late = Seal(path)
    late._make()
    assert late.open(sealed, "row 1") == TEXT
