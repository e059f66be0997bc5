"""This deployment's workers.

Decides what steps are given here; never how steps run. Called by Celery.
"""
