"""Who a request comes from: passwords, sessions, tokens, links, and the middleware that asks.

Decides who somebody is and what that may be; never what a request does. Opened by the web and by
any other application of the ASGI family.
"""

from iaflow.auth.middleware import AuthMiddleware
from iaflow.auth.sessions import SessionManager

__all__ = ["AuthMiddleware", "SessionManager"]
