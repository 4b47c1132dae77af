"""Secrets at rest: AES-256-GCM under one key of the machine, which is never in the store.

The key is 32 bytes in base64: the variable HEADWATER_SECRET_KEY, else a file that only its owner can read, made when
the first secret is sealed. What is sealed is bound to a purpose (its associated data), so that a row's secret is of
no use in another row.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from headwater.errors import StoreError

VARIABLE = "HEADWATER_SECRET_KEY"
_NONCE = 12
PRESIGNING, RECEIPTS, _FINGERPRINT = "presigned urls", "receipts", "fingerprint"
"""What secrets are derived for."""
_HINT = f"put the key back: the file of `secret_key_file`, or the variable {VARIABLE}; or subscribe again"


class Seal:
    """Seals and opens texts with the key of `path`, or of the variable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = b""

    def seal(self, text: str, purpose: str) -> str:
        """The text encrypted; makes the key file when there is none."""
        nonce = os.urandom(_NONCE)
        sealed = AESGCM(self._load(make=True)).encrypt(nonce, text.encode(), purpose.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, purpose: str) -> str:
        """The text again. Raises `StoreError` when the key is missing, or is not the one it was sealed with."""
        raw = base64.b64decode(sealed)
        try:
            return AESGCM(self._load()).decrypt(raw[:_NONCE], raw[_NONCE:], purpose.encode()).decode()
        except InvalidTag:
            raise self._error("it was sealed with another key, or altered") from None

    def derive(self, purpose: str, *, make: bool) -> bytes:
        """A secret of 32 bytes for a purpose of its own, the same every time. Raises `StoreError` as `open` does."""
        return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(self._load(make=make))

    @property
    def is_there(self) -> bool:
        return bool(os.environ.get(VARIABLE)) or self._path.exists()

    def fingerprint(self, *, make: bool) -> str:
        """Tells one key from another, and nothing of the key. Raises `StoreError` as `open` does."""
        return self.derive(_FINGERPRINT, make=make).hex()[:32]

    def _load(self, *, make: bool = False) -> bytes:
        if not self._key:
            given = os.environ.get(VARIABLE, "")
            self._key = self._decode(given, VARIABLE) if given else self._read(make)
        return self._key

    def _read(self, make: bool) -> bytes:
        try:
            if make and not self._path.exists():
                self._make()
            return self._decode(self._path.read_text("ascii"), str(self._path))
        except FileNotFoundError:
            raise self._error("there is no secret key") from None
        except (OSError, UnicodeDecodeError) as error:
            raise self._error(f"the secret key cannot be read: {error}") from error

    def _make(self) -> None:
        """Complete before it has its name: another process that makes one at the same time wins or loses whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, base64.b64encode(os.urandom(32)) + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(draft, self._path)
        except FileExistsError:
            """The other process's key is the key."""
        finally:
            draft.unlink()

    def _decode(self, text: str, place: str) -> bytes:
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32:
            raise StoreError("it is not the base64 of 32 bytes", operation="read the secret key", resource=place)
        return key

    def _error(self, message: str) -> StoreError:
        return StoreError(message, operation="open a secret", resource=str(self._path), hint=_HINT)
