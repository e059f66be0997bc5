"""What services, pages and commands ask of iaflow; `Client` is all of it.

Decides nothing: it gathers the rooms of the client, one per subject. Opened by services, made by
the composition root for the faces.
"""

from iaflow.client.client import Client

__all__ = ["Client"]
