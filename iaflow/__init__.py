"""iaflow: durable DAG pipelines, written in JSON, on Celery, Redis and Postgres.

Decides nothing itself: it is the door to the rooms below. Never imports one of them,
so that `import iaflow` costs nothing. Called by everybody.
"""
