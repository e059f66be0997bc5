"""How runs are kept: starts, claims, settles, pauses and reads, on both dialects.

Decides nothing of what happens next; every change of a status is one guarded statement
named by the change. Called by the engine, maintenance and the client.
"""

from iaflow.database.run_store.claims import ClaimStore
from iaflow.database.run_store.holds import HoldStore
from iaflow.database.run_store.items import ItemStore
from iaflow.database.run_store.listings import ListingStore
from iaflow.database.run_store.notices import NoticeStore
from iaflow.database.run_store.pauses import PauseStore
from iaflow.database.run_store.prunes import PruneStore
from iaflow.database.run_store.reads import ReadStore
from iaflow.database.run_store.settles import SettleStore
from iaflow.database.run_store.waits import WaitStore

__all__ = [
    "ClaimStore",
    "HoldStore",
    "ItemStore",
    "ListingStore",
    "NoticeStore",
    "PauseStore",
    "PruneStore",
    "ReadStore",
    "SettleStore",
    "WaitStore",
]
