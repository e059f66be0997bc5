"""Celery workers: what `celery -A workers.app worker` runs.

Decides nothing itself; never imported by another face. Called by Celery.
"""
