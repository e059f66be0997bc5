"""How guessing is slowed down: how long a try to sign in has to wait.

Decides from what the windows hold, and from nothing else: pure. It delays tries and locks nobody
out. Called by sessions.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iaflow.database.account_store import Tries

__all__ = [
    "ADDRESS_WINDOW",
    "KEPT_FAILED",
    "KEPT_SUCCEEDED",
    "NAME_WINDOW",
    "PAIR_WINDOW",
    "decide_delay",
    "neighbourhood_of",
]

PAIR_WINDOW: Final = timedelta(minutes=15)
PAIR_FREE: Final = 5
LONGEST_DELAY: Final = 900.0
"""After 5 failures of a name from an address: 1 s, 2 s, 4 s … 15 min."""

NAME_WINDOW: Final = timedelta(hours=1)
NAME_FREE: Final = 12
NAME_DELAY: Final = 60.0
"""After 12 failures of a name from anywhere, addresses that are new to it come once a minute."""

ADDRESS_WINDOW: Final = timedelta(minutes=1)
ADDRESS_MOST: Final = 20
"""So many tries from one address in a minute, whatever the names."""

KEPT_FAILED: Final = timedelta(days=1)
KEPT_SUCCEEDED: Final = timedelta(days=30)


def decide_delay(tries: Tries, now: datetime) -> float:
    """
    Return how many seconds a try has to wait; 0: it may be made.

    Nobody can keep somebody else out. From an address from which a name has signed in before, only
    what failed at that very address counts. Where guesses come from everywhere, whoever has
    failed less this day goes first: an address waits a minute after anybody's last failure, and
    a minute more for each of its own. So addresses that guess use up their turns, and who comes
    from a new one is next.
    """
    waits = [0.0]
    if tries.address >= ADDRESS_MOST:
        waits.append(_left(tries.address_at, ADDRESS_WINDOW.total_seconds(), now))
    if tries.pair >= PAIR_FREE:
        # A power of very many would be no number any more.
        delay = min(2.0 ** min(tries.pair - PAIR_FREE, 10), LONGEST_DELAY)
        waits.append(_left(tries.pair_at, delay, now))
    if tries.name >= NAME_FREE and not tries.is_known:
        delay = min(NAME_DELAY * (1 + tries.pair_day), LONGEST_DELAY)
        waits.append(_left(tries.name_at, delay, now))
    return max(waits)


def neighbourhood_of(address: str) -> str:
    """
    Return what counts as one address: of IPv6 the /64, which one house has for itself.

    Whoever has 2^64 addresses would have as many first tries. What is no address is itself.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    prefix = int(parsed) >> 64 << 64
    return f"{IPv6Address(prefix)}/64"


def _left(since: datetime | None, delay: float, now: datetime) -> float:
    passed = (now - since).total_seconds() if since is not None else delay
    return max(0.0, delay - passed)
