"""How long a try to sign in has to wait, and where a request comes from."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iaflow.auth.surroundings import Client, is_own_page, read_client, read_headers
from iaflow.auth.throttle import LONGEST_DELAY, decide_delay, neighbourhood_of
from iaflow.database.account_store import Tries
from iaflow.settings import Settings, load_settings

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


# --- delays


@pytest.mark.parametrize(
    ("tries", "delay"),
    (
        (Tries(), 0),
        (Tries(pair=4, pair_at=ago(0)), 0),
        (Tries(pair=5, pair_at=ago(0)), 1),
        (Tries(pair=5, pair_at=ago(1)), 0),
        (Tries(pair=8, pair_at=ago(3)), 5),
        (Tries(pair=14, pair_at=ago(0)), 512),
        (Tries(pair=15, pair_at=ago(0)), 900),
        (Tries(pair=5_000, pair_at=ago(0)), 900),
        (Tries(name=11, name_at=ago(0)), 0),
        (Tries(name=12, name_at=ago(0)), 60),
        (Tries(name=12, name_at=ago(61)), 0),
        (Tries(name=12, name_at=ago(0), pair=1, pair_day=2, pair_at=ago(0)), 180),
        (Tries(name=99, name_at=ago(0), pair_day=99), 900),
        (Tries(name=5_000, name_at=ago(0), is_known=True), 0),
        (Tries(name=99, name_at=ago(0), is_known=True, pair=6, pair_at=ago(0)), 2),
        (Tries(address=19, address_at=ago(5)), 0),
        (Tries(address=20, address_at=ago(5)), 55),
    ),
    ids=str,
)
def test_a_try_waits_as_long_as_the_windows_say(tries: Tries, delay: float) -> None:
    assert decide_delay(tries, NOW) == delay


@given(
    counts=st.tuples(*[st.integers(0, 10_000)] * 4),
    ages=st.tuples(*[st.floats(-10, 4_000)] * 3),
    is_known=st.booleans(),
)
def test_no_delay_is_for_ever(
    counts: tuple[int, ...], ages: tuple[float, ...], is_known: bool
) -> None:
    pair, day, name, address = counts
    pair_at, name_at, address_at = map(ago, ages)
    tries = Tries(pair, pair_at, day, name, name_at, address, address_at, is_known)
    # Clocks of two processes may differ by a little.
    assert 0 <= decide_delay(tries, NOW) <= LONGEST_DELAY + 10
    later = NOW + timedelta(seconds=LONGEST_DELAY + 10)
    assert decide_delay(tries, later) == 0


@pytest.mark.parametrize(
    ("address", "neighbourhood"),
    (
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("unix:" + "x" * 100, "unix:" + "x" * 59),
    ),
)
def test_a_house_is_one_address(address: str, neighbourhood: str) -> None:
    assert neighbourhood_of(address) == neighbourhood


# --- behind proxies

OURS = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def scope_of(peer: str | None, *forwarded: str, proto: str = "", scheme: str = "http") -> Any:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    headers += [(b"x-forwarded-proto", proto.encode())] if proto else []
    return {"client": peer and (peer, 1), "scheme": scheme, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    (
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        ("10.1.1.1", (), "10.1.1.1"),
        ("10.1.1.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.1.1.1", ("6.6.6.6, 198.51.100.1",), "198.51.100.1"),
        ("10.1.1.1", ("6.6.6.6", "198.51.100.1, 10.2.2.2"), "198.51.100.1"),
        ("10.1.1.1", ("10.3.3.3, 10.2.2.2",), "10.3.3.3"),
        ("10.1.1.1", ("6.6.6.6, nonsense, 10.2.2.2",), "10.2.2.2"),
        ("10.1.1.1", ("198.51.100.1:8080",), "198.51.100.1"),
        ("10.1.1.1", ("[2001:db8::1]:443",), "2001:db8::1"),
        ("::1", ("2001:db8::1",), "2001:db8::1"),
        ("::ffff:10.1.1.1", ("198.51.100.1",), "198.51.100.1"),
        (None, ("198.51.100.1",), ""),
    ),
)
def test_what_proxies_of_ours_say_is_believed(
    peer: str | None, forwarded: tuple[str, ...], address: str
) -> None:
    assert read_client(scope_of(peer, *forwarded), OURS).address == address


def test_the_scheme_is_the_clients() -> None:
    assert read_client(scope_of("10.1.1.1", proto="https"), OURS) == Client("10.1.1.1", "https")
    assert read_client(scope_of("10.1.1.1", proto="http, wss"), OURS).scheme == "https"
    assert read_client(scope_of("10.1.1.1", proto="gopher"), OURS).scheme == "http"
    assert read_client(scope_of("6.6.6.6", proto="https"), OURS).scheme == "http"
    assert read_client(scope_of("6.6.6.6", scheme="wss")).scheme == "https"


@given(st.lists(st.tuples(st.sampled_from([b"origin", b"host", b"sec-fetch-site"]), st.binary())))
def test_any_headers_are_read(raw: list[tuple[bytes, bytes]]) -> None:
    assert is_own_page(read_headers(raw), if_silent=True) in (True, False)


def test_networks_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IAFLOW_TRUSTED_PROXIES", "10.0.0.0/8, ::1")
    monkeypatch.setenv("IAFLOW_PUBLIC_URL", "https://flows.example.org/")
    settings = load_settings()
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.public_url == "https://flows.example.org"
    for wrong in ({"trusted_proxies": "10.0.0.1/8"}, {"public_url": "https://x.example/path"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)
