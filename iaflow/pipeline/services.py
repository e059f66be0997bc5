"""What steps are given: named services, injected, built late and closed once.

Decides how a service is found, built and closed; never which ones there are. Made by the
composition root or the user, read by steps.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from iaflow.errors import IaflowError

__all__ = ["SecretFiles", "ServiceMissing", "ServiceRegistry"]


class ServiceMissing(IaflowError):
    """A step asked for a service that nobody registered."""

    code = "service_missing"


class ServiceRegistry:
    """
    Named services for steps: ``ServiceRegistry(db=…, http=…, anything=…)``.

    A service is any object. What must be built late (on the worker, in its event loop) is
    registered with `provide`; it is built once, when it is first asked for.

    Args:
        db: what ``self.get_db()`` returns.
        http: what ``self.get_http()`` returns.
        services: any others, by name.
    """

    def __init__(self, db: Any = None, http: Any = None, **services: Any) -> None:
        self._services: dict[str, Any] = dict(services)
        self._factories: dict[str, Callable[[], Any]] = {}
        self._built: list[Any] = []
        self._lock = threading.Lock()
        if db is not None:
            self._services["db"] = db
        if http is not None:
            self._services["http"] = http

    def register(self, name: str, service: Any) -> None:
        """Give `service` the name `name`, in place of an earlier one. It is not closed by us."""
        self._services[name] = service

    def provide(self, name: str, factory: Callable[[], Any]) -> None:
        """Let `factory` build the service `name` when it is first asked for; closed by `close`."""
        self._factories[name] = factory

    def __contains__(self, name: object) -> bool:
        return name in self._services or name in self._factories

    def get(self, name: str) -> Any:
        """
        Return the service `name`.

        Raises:
            ServiceMissing: nobody registered it; the message names those that there are.
        """
        if name in self._services:
            return self._services[name]
        factory = self._factories.get(name)
        if factory is None:
            known = ", ".join(sorted({*self._services, *self._factories})) or "none"
            raise ServiceMissing(
                f"there is no service {name!r} (registered: {known}); give it to the "
                f"ServiceRegistry: ServiceRegistry({name}=…)"
            )
        with self._lock:
            if name not in self._services:
                service = factory()
                self._services[name] = service
                self._built.append(service)
        return self._services[name]

    async def close(self) -> None:
        """Close what `provide` built, the latest first; what was registered stays open."""
        while self._built:
            service = self._built.pop()
            for name, known in list(self._services.items()):
                if known is service:
                    del self._services[name]
            close = getattr(service, "aclose", None) or getattr(service, "close", None)
            if close is not None:
                result = close()
                if inspect.isawaitable(result):
                    await result


class SecretFiles:
    """
    Secrets from the files of a folder, one each, as container platforms mount them.

    The service that `IAFLOW_SECRETS_FOLDER` provides under the name ``secrets``; any object
    with `get(name)`, plain or async, does as well.

    Args:
        folder: holds a file per secret; the file's name is the secret's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str | None:
        """Return a secret without the line's end behind it; None if there is none of that name."""
        if not _SECRET_NAME.fullmatch(name):
            return None
        try:
            return (self._folder / name).read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            return None


_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
