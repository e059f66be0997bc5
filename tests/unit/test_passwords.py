"""Which passwords are good enough, and which keys sign."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iaflow.auth.passwords import Passwords, find_faults
from iaflow.auth.secrets_kept import Signer, draw_token, hash_token, require_strong_key
from iaflow.errors import SettingsRefused

CHEAP = Passwords(time_cost=1, memory_kib=8)
CONTEXT = ("anna.mueller@example.org",)


def code_of(password: str) -> str:
    return next((fault.code for fault in find_faults(password, CONTEXT)), "")


@pytest.mark.parametrize(
    "password",
    (
        *("correct horse battery staple", "blau wie ein Zebra", "zwoelf Kamele im Zoo"),
        *(
            "8fK2-xQ9z-Lm4w",
            "Tr0ub4dor&3xy",
            "пароль длинный и странный",
            "🐫🦒🦓🐘🦏🦛🐪🦘🦬🐃🐂🐄",
        ),
        *("x" * 6 + "vierzig Esel", "gT6#" * 3 + "wüste Qualle", "a_SDS9vDw90J"),
    ),
)
def test_a_few_words_are_enough(password: str) -> None:
    assert code_of(password) == ""


@pytest.mark.parametrize(
    "password",
    (
        *("password1234", "Password2024!", "P@ssw0rdP@ssw0rd", "passwordpassword1"),
        *("qwertyuiop123", "1qaz2wsx3edc", "abcdefghijkl", "123456789012", "112233445566"),
        *("aaaaaaaaaaaa", "abcabcabcabc", "iaflow-anna-2026", "anna.mueller@example.org"),
        *("letmeinletmein", "SunshineMonkey7", "Iloveyouforever", "trustno1trustno1"),
        *("admin-iaflow-1", "Mueller-Mueller-1999", "welcome   welcome"),
    ),
)
def test_what_is_tried_first_is_refused(password: str) -> None:
    assert code_of(password) == "password_common"


@pytest.mark.parametrize(
    ("password", "code"),
    (("", "password_short"), ("x7-Qm2+Lp9z", "password_short"), ("Zebra " * 30, "password_long")),
)
def test_a_password_has_twelve_to_a_hundred_and_twenty_eight_characters(
    password: str, code: str
) -> None:
    assert code_of(password) == code


def test_all_of_a_long_password_counts() -> None:
    long = "".join(secrets.token_urlsafe(96))
    assert len(long) == 128
    assert code_of(long) == ""
    kept = CHEAP.hash(long)
    assert CHEAP.compare(kept, long).matches
    assert not CHEAP.compare(kept, long[:-1]).matches


@given(st.text(st.characters(exclude_categories=()), max_size=140))
def test_any_text_is_judged_and_hashed(password: str) -> None:
    # A fault says the same of every password: nothing of it is told.
    known = {fault.message for one in ("", "x" * 12, "x" * 129) for fault in find_faults(one)}
    assert {fault.message for fault in find_faults(password)} <= known
    kept = CHEAP.hash(password)
    assert CHEAP.compare(kept, password).matches
    assert not CHEAP.compare(kept, password + "x").matches


def test_nobodys_password_is_none() -> None:
    before = CHEAP.count
    assert not CHEAP.compare(None, "").matches
    assert not CHEAP.compare("no hash at all", "").matches
    assert CHEAP.count == before + 2


def test_other_costs_are_outdated() -> None:
    kept = CHEAP.hash("zwoelf Kamele")
    assert not CHEAP.compare(kept, "zwoelf Kamele").is_outdated
    dearer = Passwords(time_cost=2, memory_kib=16)
    assert dearer.compare(kept, "zwoelf Kamele").is_outdated
    assert not dearer.compare(kept, "elf Kamele").is_outdated


# --- keys


@pytest.mark.parametrize(
    "key",
    (
        *(None, "", "x" * 31, "x" * 32, "ab" * 40, "secret-key" * 8, "changeme" * 8, "é" * 40),
        *("0123456789abcdef" * 4, "CHANGE-ME-" + "kQ7z" * 8, "your-secret-key-goes-here-please!"),
        *("this is an example of a secret key", "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbcccccccc"),
        "QcwUQzsEtQ1ephkLiq81kA",
    ),
)
def test_a_key_that_can_be_guessed_signs_nothing(key: str | None) -> None:
    with pytest.raises(SettingsRefused) as refused:
        require_strong_key(key)
    assert not key or key not in str(refused.value)


def test_random_keys_are_strong() -> None:
    for _ in range(200):
        for key in (secrets.token_urlsafe(32), secrets.token_hex(32), secrets.token_urlsafe(48)):
            assert require_strong_key(key) == key.encode()


def test_a_signature_is_of_a_key_a_purpose_and_a_text() -> None:
    one, other = Signer(b"a" * 32), Signer(b"b" * 32)
    signed = one.sign("csrf", "text")
    assert one.is_signature("csrf", "text", signed)
    assert len(signed) == 43
    for signer, purpose, text in (
        (other, "csrf", "text"),
        (one, "link", "text"),
        (one, "csrf", ""),
    ):
        assert not signer.is_signature(purpose, text, signed)
    assert not one.is_signature("csrf", "text", "")
    assert not one.is_signature("csrf", "text", signed + "\ud800")


def test_tokens_are_256_random_bits() -> None:
    drawn = {draw_token() for _ in range(1_000)}
    assert len(drawn) == 1_000
    assert {len(token) for token in drawn} == {43}
    assert len(hash_token("any \ud800")) == 64
