"""Two ways to carry a ready step to an attempt: in this process, or through Celery.

Decides nothing itself; never imported by the engine. Called by the composition root, the
runner and workers.
"""
