"""Where the web is reached: the beginning of addresses that are handed out.

Decides between what the settings say and what the request was addressed to; never what an address
leads to. Called by routes that reply addresses.
"""

from __future__ import annotations

from starlette.requests import Request

from iaflow.settings import Settings

__all__ = ["find_address", "find_root"]


def find_root(request: Request) -> str:
    """Return the path that the app is mounted under; empty: none."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def find_address(request: Request, settings: Settings) -> str:
    """Return the address that people reach the web by, as `IAFLOW_PUBLIC_URL` says, else as asked."""
    public = settings.public_url
    if public is None:
        public = f"{request.url.scheme}://{request.url.netloc}"
    return public.rstrip("/") + find_root(request)
