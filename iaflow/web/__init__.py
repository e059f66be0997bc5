"""The web: the API of iaflow over HTTP, as an app of its own or inside another.

Exports what a host application mounts; everything else is found by its module.
"""

from iaflow.web.app import create_app, open_app

__all__ = ["create_app", "open_app"]
