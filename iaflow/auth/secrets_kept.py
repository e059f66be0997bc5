"""Secrets: how they are drawn, what is kept of them, and which key signs.

Decides that only hashes are kept and that a weak key signs nothing; never who holds what. Used by
every other part of this room.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

from iaflow.errors import SettingsRefused

__all__ = ["Signer", "draw_token", "hash_token", "require_strong_key"]

KEY_BYTES: Final = 32
_ADVICE: Final = (
    "set IAFLOW_SECRET_KEY to at least 32 random bytes, such as the output of "
    "`python -c 'import secrets; print(secrets.token_urlsafe(48))'`, the same in every process"
)
_WEAK_WORDS: Final = (
    *("changeme", "change-me", "change_me", "changethis", "insecure", "placeholder", "example"),
    *("password", "your-secret", "your_secret", "yoursecret", "secret-key", "secret_key"),
    *("secretkey", "django-", "0123456789", "abcdefgh", "qwertyui", "topsecret", "supersecret"),
)
_FEWEST_LETTERS: Final = 10


def draw_token() -> str:
    """Return 256 random bits as 43 characters that may stand in an URL."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """
    Return what is kept of a token.

    A plain hash is enough for what nobody can guess; see `passwords` for what people choose.
    """
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


class Signer:
    """Signs with the deployment's key; each purpose has signatures of its own."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """Return the signature of a text for one purpose: 43 characters."""
        signed = f"iaflow:{purpose}:{text}".encode("utf-8", "replace")
        digest = hmac.new(self._key, signed, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def is_signature(self, purpose: str, text: str, given: str) -> bool:
        """Tell whether `given` is the signature, in a time that tells nothing."""
        wanted = self.sign(purpose, text).encode()
        return hmac.compare_digest(wanted, given.encode("utf-8", "replace"))


def require_strong_key(key: str | None) -> bytes:
    """
    Return the bytes of a deployment's key.

    Raises:
        SettingsRefused: there is none, or one that others may know or guess; it is never shown.
    """
    if not key:
        raise SettingsRefused(f"there is no secret key: {_ADVICE}")
    as_bytes = key.encode("utf-8", "replace")
    if len(as_bytes) < KEY_BYTES:
        raise SettingsRefused(f"the secret key has {len(as_bytes)} bytes: {_ADVICE}")
    small = key.lower()
    is_periodic = 0 < (key + key).find(key, 1) < len(key)
    has_weak_word = any(word in small for word in _WEAK_WORDS)
    if is_periodic or has_weak_word or len(set(key)) < _FEWEST_LETTERS:
        raise SettingsRefused(f"the secret key can be guessed: {_ADVICE}")
    return as_bytes
