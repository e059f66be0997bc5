"""Sessions: how a person signs in, stays signed in, and is signed out for good.

Decides how long a session lives and what ends it, and which credentials a request has; never what
a request may do. The one thing of this room that a host application opens.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self

import uuid_utils

from iaflow.auth.accounts import Accounts, principal_of
from iaflow.auth.audit import Audit, Caller, clean
from iaflow.auth.credentials import COOKIE, DEVELOPMENT_COOKIE, Credentials, read_credentials
from iaflow.auth.links import AnswerLinks
from iaflow.auth.passwords import Passwords, require_good_password
from iaflow.auth.secrets_kept import Signer, draw_token, hash_token, require_strong_key
from iaflow.auth.tokens import ApiTokens
from iaflow.auth.tries import SignInTries
from iaflow.clock import Clock, ReferenceClock, SystemClock
from iaflow.data.accounts import NAME, Principal, SessionRecord, UserRecord
from iaflow.database import migrator
from iaflow.database.account_store import SessionStore, SigningUser, UserStore
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES
from iaflow.errors import AccountRefused, NotAllowed, Problem, SignInRefused
from iaflow.settings import Settings, load_settings

__all__ = ["SessionManager", "SignedIn"]

IDLE: Final = timedelta(minutes=30)
ABSOLUTE: Final = timedelta(hours=12)
TOUCHED_EVERY: Final = timedelta(minutes=1)
MOST_PER_USER: Final = 10
TIDIED_EVERY: Final = timedelta(minutes=10)

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """
    What a sign-in gives.

    Attributes:
        token: for the cookie, and for nothing else: `SessionManager.set_cookie`.
        csrf_token: for the page, which sends it back as `X-CSRF-Token`.
    """

    token: str = field(repr=False)
    session: SessionRecord
    principal: Principal
    csrf_token: str = field(repr=False)


class SessionManager:
    """
    Sessions, and with them accounts, API tokens, one-time links and the audit, on one database.

    Every method works on the database and so may wait; none is to be called on an event loop.

    Args:
        database: the URL of one, which `close` closes; or one that is open, which stays so. None:
            that of the settings.
        secret_key: at least 32 bytes, the same in every process; None: that of the settings.
        settings: None: those of the environment.
        is_development: on loopback alone: a key of its own for this process, and a cookie
            that travels without encryption.
        clock: what tells the time; None: the database's own.
        passwords: how they are hashed; None: as costly as they should be.

    Raises:
        SettingsRefused: there is no secret key, or one that can be guessed.
        SchemaOutdated, NotReachable: the database cannot be worked on.
    """

    def __init__(
        self,
        database: str | Database | None = None,
        *,
        secret_key: str | None = None,
        settings: Settings | None = None,
        is_development: bool = False,
        clock: Clock | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        self.settings = load_settings() if settings is None else settings
        self.is_development = is_development
        self._signer = Signer(self._read_key(secret_key))
        self._is_own = not isinstance(database, Database)
        self.database = database if isinstance(database, Database) else self._open(database)
        if clock is None:
            on_server = self.database.dialect == POSTGRES
            clock = ReferenceClock(self.database.read_clock) if on_server else SystemClock()
        self._clock = clock
        self._passwords = Passwords() if passwords is None else passwords
        self.audit = Audit(self.database, clock)
        self.accounts = Accounts(self.database, clock, self._passwords, self.audit)
        self.tokens = ApiTokens(self.database, clock, self.audit)
        self.links = AnswerLinks(self.database, clock, self.audit, self._signer)
        self._users = UserStore(self.database)
        self._sessions = SessionStore(self.database)
        self._tries = SignInTries(self.database, clock, self._signer)
        self._tidied_at: datetime | None = None
        self._tidy_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, if it was opened here."""
        if self._is_own:
            self.database.close()

    @property
    def cookie_name(self) -> str:
        """The name of the cookie that holds a session's token."""
        return DEVELOPMENT_COOKIE if self.is_development else COOKIE

    # -- signing in

    def sign_in(
        self,
        name: str,
        password: str,
        *,
        address: str = "",
        user_agent: str = "",
        request_id: str = "",
        replaces: str | None = None,
    ) -> SignedIn:
        """
        Begin a session for whoever knows a name's password.

        A name that is unknown, a wrong password and a disabled user take the same time and get
        the same reply. A try that has to wait costs no hash.

        Args:
            address, user_agent, request_id: of the request, as they are kept and shown.
            replaces: the token that the request brought, whose session ends.

        Raises:
            SignInRefused: for any of the three reasons.
            TooMany: too many tries: `after_seconds`.
        """
        small = name.strip().lower()
        seen = Caller(None, address, request_id)
        with self._tries.one(small, address) as one:
            found = self._users.find_signing(small if NAME.fullmatch(small) else "")
            verdict = self._passwords.compare(_hash_of(found), password)
            if found is None or not verdict.matches or found.user.is_disabled:
                # Of a name that nobody has nothing is kept: people type passwords there.
                self._audit_refusal(found, seen)
                raise SignInRefused
            rehashed = self._passwords.hash(password) if verdict.is_outdated else None
            caller = Caller(found.user.name, address, request_id)
            signed_in = self._begin(found, rehashed, caller, user_agent, replaces)
            one.succeed()
        self._tidy()
        return signed_in

    def change_password(
        self,
        principal: Principal,
        token: str,
        old: str,
        new: str,
        *,
        address: str = "",
        user_agent: str = "",
        request_id: str = "",
    ) -> SignedIn:
        """
        Change one's own password: a new session in the place of all that there are.

        Args:
            principal, token: by which the request came: a session, no API token.

        Raises:
            NotAllowed: the request came by no session that goes on.
            AccountRefused: the old password is wrong, or the new one too easily guessed.
            TooMany: too many tries with wrong ones.
        """
        current = self.find(token)
        if current is None or current[1].user_id != principal.user_id:
            raise NotAllowed("sign in with the password that is to be changed")
        require_good_password(new, (principal.name,), pointer="/new")
        caller = Caller(principal.name, address, request_id)
        with self._tries.one(principal.name, address) as one:
            found = self._users.find_signing(principal.name)
            verdict = self._passwords.compare(_hash_of(found), old)
            is_same = found is not None and found.user.user_id == principal.user_id
            if found is None or not is_same or not verdict.matches or found.user.is_disabled:
                self._audit_refusal(found, caller)
                raise AccountRefused((Problem("password_wrong", "/old", "it is another one"),))
            one.succeed()
        return self._begin(
            found, self._passwords.hash(new), caller, user_agent, token, is_change=True
        )

    def _begin(
        self,
        found: SigningUser,
        new_hash: str | None,
        caller: Caller,
        user_agent: str,
        replaces: str | None,
        *,
        is_change: bool = False,
    ) -> SignedIn:
        """Begin a session, if the password that was compared is still the user's."""
        token, now, user = draw_token(), self._clock.now(), found.user
        session = SessionRecord(
            session_id=str(uuid_utils.uuid7()),
            user_id=user.user_id,
            created_at=now,
            seen_at=now,
            expires_at=now + ABSOLUTE,
            address=clean(caller.address, 64),
            user_agent=clean(user_agent, 200),
        )

        def begin(tx: Connection) -> None:
            seen = found.password_hash
            if not self._users.lock_signing(tx, user.user_id, seen):
                raise SignInRefused
            if is_change and new_hash is not None:
                self._users.set_password(tx, user.user_id, new_hash, now=now)
                self._sessions.delete_all(tx, user.user_id)
            elif new_hash is not None and seen is not None:
                self._users.set_rehashed(tx, user.user_id, seen=seen, password_hash=new_hash)
            if replaces is not None and not is_change:
                self._sessions.delete_by_token(tx, hash_token(replaces))
            self._sessions.insert(tx, session, token_hash=hash_token(token), at_most=MOST_PER_USER)
            action = "password.change" if is_change else "sign_in.ok"
            self.audit.record(action, user.name, caller=caller, tx=tx)

        self.database.perform(begin)
        return SignedIn(token, session, _principal(user, session), self.csrf_token(token))

    def _audit_refusal(self, found: SigningUser | None, caller: Caller) -> None:
        target = "" if found is None else found.user.name
        self.audit.record("sign_in.refused", target, caller=caller)

    # -- while it goes on

    def find(self, token: str, *, is_use: bool = True) -> tuple[SessionRecord, Principal] | None:
        """
        Return the session of a token that goes on, and whose it is; None: there is none.

        Args:
            is_use: somebody does something by it, which keeps it from being idle.
        """
        if not _TOKEN.fullmatch(token):
            return None
        now, token_hash = self._clock.now(), hash_token(token)
        found = self._sessions.find(token_hash, now=now, idle_since=now - IDLE)
        if found is None:
            return None
        session, user = found
        before = now - TOUCHED_EVERY
        if is_use and session.seen_at < before:
            self._sessions.touch(token_hash, now=now, before=before)
        return session, _principal(user, session)

    def authenticate(
        self, headers: Iterable[tuple[bytes, bytes]], *, is_use: bool = True
    ) -> Credentials | None:
        """
        Return whom a request's headers stand for; None: for nobody.

        Args:
            headers: as an ASGI scope has them.
            is_use: False for a look at the credentials of a reply that goes on: a page that is
                left open does not keep its session from being idle.

        Raises:
            CredentialsRefused: they hold a cookie and a bearer token, or one of them twice.
        """
        given = read_credentials(headers, self.cookie_name)
        if given.bearer is not None:
            principal = self.tokens.find(given.bearer)
            return None if principal is None else Credentials(principal)
        if given.cookie is not None:
            found = self.find(given.cookie, is_use=is_use)
            if found is not None:
                return Credentials(found[1], given.cookie, found[0])
        return None

    def csrf_token(self, token: str) -> str:
        """Return what pages of a session send back as `X-CSRF-Token`."""
        return self._signer.sign("csrf", hash_token(token))

    def is_csrf_token(self, token: str, given: str) -> bool:
        """Tell whether a request came from a page of this session."""
        return self._signer.is_signature("csrf", hash_token(token), given)

    def set_cookie(self, token: str) -> str:
        """Return the value of the `Set-Cookie` header that keeps a session's token."""
        return f"{self.cookie_name}={token}; Max-Age={int(ABSOLUTE.total_seconds())}{self._traits}"

    def clear_cookie(self) -> str:
        """Return the value of the `Set-Cookie` header that removes it."""
        return f"{self.cookie_name}=; Max-Age=0{self._traits}"

    @property
    def _traits(self) -> str:
        secure = "" if self.is_development else "; Secure"
        return f"; Path=/; HttpOnly; SameSite=Lax{secure}"

    # -- its end

    def sign_out(self, session_id: str, *, caller: Caller | None = None) -> bool:
        """End a session. False: it had ended before."""
        return self._end(session_id, None, "sign_out", caller)

    def sessions_of(self, user_id: str) -> Sequence[SessionRecord]:
        """Return the sessions of a user that go on, the newest first."""
        now = self._clock.now()
        return self._sessions.of_user(user_id, now=now, idle_since=now - IDLE)

    def end_session(self, user_id: str, session_id: str, *, caller: Caller | None = None) -> bool:
        """End a session of this user. False: there is none of that id."""
        return self._end(session_id, user_id, "session.end", caller)

    def _end(
        self, session_id: str, user_id: str | None, action: str, caller: Caller | None
    ) -> bool:
        def end(tx: Connection) -> bool:
            whose = self._sessions.delete(tx, session_id, user_id=user_id)
            if whose is None:
                return False
            self.audit.record(action, session_id, caller=caller or Caller(), tx=tx)
            return True

        return self.database.perform(end)

    # -- the inside

    def _read_key(self, given: str | None) -> bytes:
        kept = self.settings.secret_key
        if given is None and kept is not None:
            given = kept.get_secret_value()
        if self.is_development and not given:
            return secrets.token_bytes(32)
        return require_strong_key(given)

    def _open(self, url: str | None) -> Database:
        database = Database(
            self.settings.database_url if url is None else url,
            schema=self.settings.schema_name,
            prepare=self.settings.prepare_statements,
        )
        if database.dialect == POSTGRES:
            migrator.require_current(database)
        else:
            migrator.upgrade(database)
        return database

    def _tidy(self) -> None:
        """Remove what is over, at times: who signs in pays for it."""
        now = self._clock.now()
        with self._tidy_lock:
            if self._tidied_at is not None and now - self._tidied_at < TIDIED_EVERY:
                return
            self._tidied_at = now
        self._sessions.prune(now=now)
        self._tries.prune()


def _principal(user: UserRecord, session: SessionRecord) -> Principal:
    base = principal_of(user)
    return Principal(
        base.name,
        base.user_id,
        base.roles,
        base.permissions,
        base.sight,
        session_id=session.session_id,
    )


def _hash_of(found: SigningUser | None) -> str | None:
    return None if found is None else found.password_hash
