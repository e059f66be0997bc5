"""Guessing passwords: what it costs, how far it gets, and that nobody else is kept out by it."""

from __future__ import annotations

import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iaflow.auth.passwords import MEMORY_KIB, TIME_COST, Passwords
from iaflow.auth.sessions import SignedIn
from iaflow.errors import SignInRefused, TooMany
from tests.security.conftest import KEY
from tests.security.deployments import ANN, BOB, HERE, OPERATOR, PASSWORDS, Deployment

WRONG = "something else it was"


def guess(deployment: Deployment, name: str = ANN, address: str = "198.51.100.1") -> str:
    """Try a wrong password; return what came of it."""
    try:
        deployment.sessions.sign_in(name, WRONG, address=address)
    except SignInRefused:
        return "refused"
    except TooMany:
        return "delayed"
    raise AssertionError("a wrong password let somebody in")


# --- the same reply, after the same work


def reasons(deployment: Deployment) -> dict[str, tuple[str, str]]:
    """Return three ways to be refused: a name and a password each."""
    deployment.add("eve", "viewer", password=PASSWORDS[BOB])
    eve = deployment.accounts.get_by_name("eve")
    deployment.accounts.set(eve.user_id, is_disabled=True, caller=OPERATOR)
    return {
        "unknown": ("nobody", WRONG),
        "no name at all": ("\x00 ' OR 1=1 \ud800" * 50, WRONG),
        "wrong": (ANN, WRONG),
        "disabled": ("eve", PASSWORDS[BOB]),
        "no password yet": (deployment.add("new", "viewer").name, WRONG),
    }


def test_every_reason_gets_the_same_reply_for_the_same_work(deployment: Deployment) -> None:
    told = set()
    for at, (name, password) in enumerate(reasons(deployment).values()):
        before = deployment.passwords.count
        tally = deployment.sessions.database.tally
        statements = tally.statements
        with pytest.raises(SignInRefused) as refused:
            deployment.sessions.sign_in(name, password, address=f"192.0.2.{at}")
        told.add((str(refused.value), deployment.passwords.count - before))
        told.add(("statements", tally.statements - statements))
    assert len(told) == 2
    assert {number for what, number in told if what != "statements"} == {1}


def test_an_unknown_name_takes_as_long_as_a_wrong_password(tmp_path: Path) -> None:
    """At full cost, one after the other. The count above is the proof; this looks at the work."""
    dear = Deployment(f"sqlite:///{tmp_path / 'dear.db'}", KEY, passwords=Passwords())
    ways = {key: way for key, way in reasons(dear).items() if key != "no name at all"}
    taken: dict[str, list[float]] = {key: [] for key in ways}
    for turn in range(5):
        dear.clock.move(days=1)
        for key, (name, password) in ways.items():
            # The processor's time: that of the clock is also what others on the machine do.
            begun = time.process_time()
            with pytest.raises(SignInRefused):
                dear.sessions.sign_in(name, password, address=f"192.0.2.{turn}")
            taken[key].append(time.process_time() - begun)
    dear.close()
    medians = {key: statistics.median(times) for key, times in taken.items()}
    assert max(medians.values()) < 2 * min(medians.values()), medians


def test_a_hash_costs_what_it_should() -> None:
    assert (TIME_COST, MEMORY_KIB) == (2, 65_536)
    kept = Passwords().hash("zwoelf Kamele im Zoo")
    assert kept.startswith("$argon2id$v=19$m=65536,t=2,p=1$")
    salt, digest = kept.split("$")[-2:]
    assert (len(salt), len(digest)) == (22, 43)


# --- how far it gets


def attack(
    deployment: Deployment, addresses: int, guesses: int, minutes: float, act: Callable[[], object]
) -> int:
    """Spread guesses over addresses and time; return how many reached the account."""
    reached = 0
    for at in range(guesses):
        reached += guess(deployment, address=f"198.51.100.{at % addresses}") == "refused"
        deployment.clock.move(minutes=minutes / guesses)
        act()
    return reached


@pytest.mark.parametrize("addresses", (1, 50))
def test_a_thousand_guesses_in_a_quarter_of_an_hour(on_sqlite: Deployment, addresses: int) -> None:
    on_sqlite.sign_in(address=HERE)
    before = on_sqlite.passwords.count
    reached = attack(on_sqlite, addresses, 1_000, 15, lambda: None)
    assert on_sqlite.passwords.count - before == reached
    assert 5 <= reached <= 30
    # Whoever has the password comes in from where they were before, in the middle of it.
    assert on_sqlite.sign_in(address=HERE).principal.name == ANN


def test_guesses_at_once_get_no_further(deployment: Deployment) -> None:
    tally = deployment.at_once(24, lambda at: deployment.sessions.sign_in(ANN, WRONG, address="a"))
    assert sum(isinstance(one, SignInRefused) for one in tally) <= 5
    assert deployment.passwords.count <= 5 + 2  # the two that were hashed at the beginning
    deployment.clock.move(minutes=20)
    assert deployment.sign_in(address="a").principal.name == ANN


def test_who_comes_from_elsewhere_gets_in_while_it_goes_on(on_sqlite: Deployment) -> None:
    """From an address that nobody knows: the queue is by who has failed least, so it ends."""
    attack(on_sqlite, 50, 200, 3, lambda: None)
    begun, signed_in = on_sqlite.clock.now(), None
    for _ in range(400):
        # The attackers are always first; all of them have failed once before long.
        for address in range(50):
            guess(on_sqlite, address=f"198.51.100.{address}")
        try:
            signed_in = on_sqlite.sign_in(address="203.0.113.9")
        except TooMany:
            on_sqlite.clock.move(seconds=15)
            continue
        break
    assert signed_in is not None
    assert (on_sqlite.clock.now() - begun).total_seconds() < 3600


def test_a_delay_doubles_and_ends(deployment: Deployment) -> None:
    assert [guess(deployment) for _ in range(6)] == ["refused"] * 5 + ["delayed"]
    waited = []
    for _ in range(5):
        with pytest.raises(TooMany) as delayed:
            deployment.sessions.sign_in(ANN, WRONG, address="198.51.100.1")
        waited.append(delayed.value.after_seconds)
        deployment.clock.move(seconds=delayed.value.after_seconds)
        assert guess(deployment) == "refused"
    assert waited == [1, 2, 4, 8, 16]
    # Right or wrong, a try that has to wait is not looked at.
    with pytest.raises(TooMany):
        deployment.sign_in(address="198.51.100.1")
    deployment.clock.move(minutes=16)
    assert deployment.sign_in(address="198.51.100.1").principal.name == ANN


def test_an_address_tries_twenty_names_a_minute(deployment: Deployment) -> None:
    came = [guess(deployment, f"name{at}") for at in range(25)]
    assert came == ["refused"] * 20 + ["delayed"] * 5
    assert guess(deployment, "name30", address="203.0.113.1") == "refused"
    deployment.clock.move(seconds=61)
    assert guess(deployment, "name31") == "refused"


def test_an_ipv6_house_is_one_address(on_sqlite: Deployment) -> None:
    came = [guess(on_sqlite, address=f"2001:db8:1:2::{at:x}") for at in range(1, 8)]
    assert came == ["refused"] * 5 + ["delayed"] * 2
    assert guess(on_sqlite, address="2001:db8:1:3::1") == "refused"


def test_the_old_password_is_guessed_no_faster(on_sqlite: Deployment) -> None:
    signed_in = on_sqlite.sign_in()
    came = []
    for _ in range(7):
        try:
            on_sqlite.sessions.change_password(
                signed_in.principal, signed_in.token, WRONG, "drei Giraffen im Fluss", address="x"
            )
        except TooMany:
            came.append("delayed")
        except Exception as error:  # noqa: BLE001  it is named below
            came.append(type(error).__name__)
    assert came == ["AccountRefused"] * 5 + ["delayed"] * 2


def test_a_try_that_had_to_wait_is_not_counted(on_sqlite: Deployment) -> None:
    for _ in range(50):
        guess(on_sqlite)
    assert on_sqlite.dump().count("198.51.100.1',") >= 5
    table = on_sqlite.sessions.database.tables.sign_ins
    with on_sqlite.sessions.database.engine.connect() as connection:
        assert len(connection.execute(table.select()).all()) == 5


def test_tries_are_forgotten(on_sqlite: Deployment) -> None:
    guess(on_sqlite)
    on_sqlite.sign_in(address=HERE)
    table = on_sqlite.sessions.database.tables.sign_ins

    def left() -> int:
        with on_sqlite.sessions.database.engine.connect() as connection:
            return len(connection.execute(table.select()).all())

    on_sqlite.clock.move(days=2)
    on_sqlite.sign_in(address=HERE)
    assert left() == 2
    on_sqlite.clock.move(days=31)
    on_sqlite.sign_in(address=HERE)
    assert left() == 1


# --- many at once


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment at full cost, where few may wait."""
    passwords = Passwords(queue=8)
    deployment = Deployment(f"sqlite:///{tmp_path / 'narrow.db'}", KEY, passwords=passwords)
    yield deployment
    deployment.close()


def test_a_hundred_sign_ins_at_once_take_bounded_memory(narrow: Deployment) -> None:
    def come(at: int) -> SignedIn:
        return narrow.sessions.sign_in(f"name{at}", WRONG, address=f"198.51.100.{at}")

    before = peak_mib()
    came = narrow.at_once(100, come)
    assert peak_mib() - before < 400
    kinds = {type(one) for one in came}
    assert kinds <= {SignInRefused, TooMany}
    # What found no place in the queue says so at once, and is not counted against anybody.
    refused = sum(isinstance(one, SignInRefused) for one in came)
    assert narrow.passwords.count == refused + 2
    table = narrow.sessions.database.tables.sign_ins
    with narrow.sessions.database.engine.connect() as connection:
        assert len(connection.execute(table.select()).all()) == refused


def test_more_than_may_wait_are_sent_away() -> None:
    passwords = Passwords(time_cost=1, memory_kib=8, at_once=1, queue=2, patience_seconds=30)
    entered, leave = threading.Event(), threading.Event()
    came: list[str] = []

    def hold() -> None:
        with passwords._turn():
            entered.set()
            leave.wait(30)

    def wait() -> None:
        passwords.hash(WRONG)
        came.append("hashed")

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(30)
    waiting = [threading.Thread(target=wait) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while passwords._inside < 3:
        time.sleep(0.001)
    with pytest.raises(TooMany) as full:
        passwords.hash(WRONG)
    assert full.value.after_seconds > 0
    leave.set()
    for thread in (holder, *waiting):
        thread.join()
    assert came == ["hashed", "hashed"]
    assert passwords.hash(WRONG)


def test_nobody_waits_for_ever() -> None:
    passwords = Passwords(time_cost=1, memory_kib=8, at_once=1, queue=2, patience_seconds=0.01)
    with passwords._turn(), pytest.raises(TooMany):
        passwords.hash(WRONG)
    assert passwords._inside == 0


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
