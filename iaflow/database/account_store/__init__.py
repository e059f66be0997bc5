"""How accounts are kept: users, sessions, tokens, tries to sign in, links, and who did what.

Decides nothing of who may do what; every change is one guarded statement. Called by auth, and by
nobody else.
"""

from iaflow.database.account_store.audits import AuditStore
from iaflow.database.account_store.links import LinkStore
from iaflow.database.account_store.sessions import SessionStore
from iaflow.database.account_store.sign_ins import SignInStore, Tries
from iaflow.database.account_store.tokens import TokenStore
from iaflow.database.account_store.users import SigningUser, UserStore

__all__ = [
    "AuditStore",
    "LinkStore",
    "SessionStore",
    "SignInStore",
    "SigningUser",
    "TokenStore",
    "Tries",
    "UserStore",
]
