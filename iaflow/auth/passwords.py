"""Passwords: which are good enough, what is kept of them, and how many are hashed at once.

Decides costs and refusals; never whose a password is. Called by accounts and sessions.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from iaflow.errors import AccountRefused, Problem, TooMany

__all__ = ["LONGEST", "SHORTEST", "Passwords", "Verdict", "find_faults", "require_good_password"]

SHORTEST: Final = 12
LONGEST: Final = 128

TIME_COST: Final = 2
MEMORY_KIB: Final = 65_536
SALT_BYTES, HASH_BYTES = 16, 32

HASHES_AT_ONCE: Final = 4
"""64 MiB each: what guessing may take of a process's memory is bounded."""
QUEUE: Final = 16
PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a comparison; `is_outdated`: keep the password under today's costs."""

    matches: bool
    is_outdated: bool = False


class Passwords:
    """
    Hashes with argon2id, a few at once.

    Args:
        time_cost, memory_kib: of each hash; smaller ones are for tests that are not about cost.
        at_once: so many are hashed at the same time in this process.
        queue: so many more may wait, for `patience_seconds`; what comes then is refused.
    """

    def __init__(
        self,
        *,
        time_cost: int = TIME_COST,
        memory_kib: int = MEMORY_KIB,
        at_once: int = HASHES_AT_ONCE,
        queue: int = QUEUE,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._hasher = PasswordHasher(
            time_cost=time_cost,
            memory_cost=memory_kib,
            parallelism=1,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
        )
        # Costs what any other does, and nothing hashes to it.
        salt, nothing = _draw(SALT_BYTES), _draw(HASH_BYTES)
        self._nobodys = f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${salt}${nothing}"
        self._free = threading.Semaphore(at_once)
        self._patience = patience_seconds
        self._lock = threading.Lock()
        self._most = at_once + queue
        self._inside = 0
        self.count = 0
        """How many hashes were computed: what an attack was allowed to cost."""

    def hash(self, password: str) -> str:
        """
        Return what is kept of a password: argon2id with its salt and costs.

        Raises:
            TooMany: too many are being hashed.
        """
        with self._turn():
            return self._hasher.hash(_encode(password))

    def compare(self, kept: str | None, password: str) -> Verdict:
        """
        Compare a password with what is kept; None (nobody's) takes as long and never matches.

        Raises:
            TooMany: too many are being hashed.
        """
        with self._turn():
            try:
                self._hasher.verify(kept or self._nobodys, _encode(password))
            except (VerificationError, InvalidHashError):
                return Verdict(matches=False)
        if kept is None:
            return Verdict(matches=False)
        return Verdict(matches=True, is_outdated=self._hasher.check_needs_rehash(kept))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            if self._inside >= self._most:
                raise TooMany(1.0, "too many people sign in at once")
            self._inside += 1
        try:
            if not self._free.acquire(timeout=self._patience):
                raise TooMany(5.0, "too many people sign in at once")
            try:
                with self._lock:
                    self.count += 1
                yield
            finally:
                self._free.release()
        finally:
            with self._lock:
                self._inside -= 1


def require_good_password(
    password: str, context: Collection[str] = (), *, pointer: str = "/password"
) -> None:
    """
    Return if a password may be chosen; `context` are words that others know, such as the name.

    Raises:
        AccountRefused: it is too short, too long or too easily guessed; it is never shown.
    """
    problems = find_faults(password, context, pointer=pointer)
    if problems:
        raise AccountRefused(problems)


def find_faults(
    password: str, context: Collection[str] = (), *, pointer: str = "/password"
) -> tuple[Problem, ...]:
    """
    Return what speaks against a password.

    No rule asks for signs or digits: they make passwords hard to remember and not hard to guess.
    What is refused is what is left with little once everything is taken out that guessing begins
    with: common words, the words of the context, rows of keys, repetitions, years.
    """
    if len(password) < SHORTEST:
        message, hint = f"it has fewer than {SHORTEST} characters", "take a few words"
        return (Problem("password_short", pointer, message, hint),)
    if len(password) > LONGEST:
        return (Problem("password_long", pointer, f"it has more than {LONGEST} characters"),)
    if _strip_known(password, context) < _LEAST_LEFT:
        message = "it is one of the first that are tried: of common words, names, rows or years"
        hint = "take a few words that nobody connects with you"
        return (Problem("password_common", pointer, message, hint),)
    return ()


_LEAST_LEFT: Final = 5
"""So many different characters must be left of a password without its guessable parts."""

_LOOK_ALIKES: Final = str.maketrans("@4310!$57", "aaeioisst")
_ADDED: Final = re.compile(r"[0-9!-/:-@\[-`{-~]{1,4}")
_ROWS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "qwertzuiop",
    "azertyuiop",
    "asdfghjkl",
    "yxcvbnm",
    "zxcvbnm",
    "1qaz2wsx3edc4rfv5tgb6yhn",
    "!@#$%^&*()",
)
_COMMON: Final = (
    *("password", "passwort", "passphrase", "passcode", "parola", "contrasena", "motdepasse"),
    *("welcome", "willkommen", "hello", "hallo", "letmein", "login", "logon", "signin", "access"),
    *("admin", "administrator", "root", "user", "guest", "test", "tester", "testing", "demo"),
    *("default", "temp", "temporary", "changeme", "change", "secret", "geheim", "master", "system"),
    *("server", "database", "postgres", "redis", "celery", "docker", "python", "company"),
    *("iloveyou", "love", "lovely", "princess", "sunshine", "monkey", "dragon", "football"),
    *("baseball", "basketball", "soccer", "hockey", "superman", "batman", "pokemon", "starwars"),
    *("computer", "internet", "samsung", "google", "facebook", "whatever", "trustno", "shadow"),
    *("michael", "jennifer", "jordan", "daniel", "charlie", "thomas", "summer", "winter"),
    *("spring", "autumn", "sommer", "herbst", "january", "february", "march", "april", "august"),
    *("september", "october", "november", "december", "monday", "tuesday", "wednesday"),
    *("thursday", "friday", "saturday", "sunday", "qwerty", "qwertz", "azerty", "asdf", "zxcv"),
    *("flower", "cheese", "cookie", "killer", "hunter", "ranger", "buster", "tigger", "ginger"),
    *("freedom", "forever", "family", "angel", "babygirl", "jesus", "money", "please", "blink"),
    *("my", "is", "the", "and", "for", "me", "you", "i"),
    *("iaflow", "pipeline", "pipelines", "workflow", "approve", "approver", "operator"),
)


def _strip_known(password: str, context: Collection[str]) -> int:
    """Return how many different characters are left without what guessing begins with."""
    small = password.casefold()
    words = {part for word in context for part in (word, *re.split(r"[^a-z0-9]+", word.casefold()))}
    known = {word.casefold() for word in words if len(word) >= 3} | set(_COMMON)
    spelled = (small, small.translate(_LOOK_ALIKES), re.sub(r"(.)\1", r"\1", small))
    return min(len(set(_remove(text, known))) for text in spelled)


def _remove(text: str, known: Collection[str]) -> str:
    text = re.sub(r"(?:19|20)\d\d", " ", text)
    for row in _ROWS:
        for run in _runs(row):
            text = text.replace(run, " ")
    for word in sorted(known, key=len, reverse=True):
        # Short ones are words only where they stand alone.
        pattern = re.escape(word) if len(word) >= 4 else rf"(?<![a-z]){re.escape(word)}(?![a-z])"
        text = re.sub(pattern, " ", text)
    text = re.sub(r"(.{1,6}?)\1{2,}", " ", text)
    # Digits and signs around words are what people add when they are asked for some.
    return "".join(part for part in text.split() if not _ADDED.fullmatch(part))


def _runs(row: str) -> Iterator[str]:
    """Yield the stretches of a row, the longest first, in both directions."""
    for length in range(len(row), 3, -1):
        for start in range(len(row) - length + 1):
            yield row[start : start + length]
            yield row[start : start + length][::-1]


def _encode(password: str) -> bytes:
    # A lone surrogate is no text, but no reason to fail either.
    return password.encode("utf-8", "surrogatepass")


def _draw(count: int) -> str:
    return base64.b64encode(secrets.token_bytes(count)).decode().rstrip("=")
