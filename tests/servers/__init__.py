"""Real servers and worker processes for tests: Postgres, Redis or Valkey, RabbitMQ, Celery.

Decides where a server comes from and that nothing outlives the run; never pretends a server and
never touches the machine's own ones on their usual ports. Called by the fixtures in `fixtures`.
"""

from tests.servers.postgres import PostgresServer
from tests.servers.processes import is_alive, wait_until
from tests.servers.rabbitmq import RabbitServer
from tests.servers.room import ServerRoom
from tests.servers.valkey import RedisServer
from tests.servers.worker import WorkerProcess

__all__ = [
    "PostgresServer",
    "RabbitServer",
    "RedisServer",
    "ServerRoom",
    "WorkerProcess",
    "is_alive",
    "wait_until",
]
