"""Runs rehearsed: the real engine and executor on virtual time, in memory, with a script.

Decides how such a run is put together, played and reported; never what follows from a step's
end, and never who asks for it. Called by `iaflow.testing` (users' tests) and `iaflow simulate`.
"""
