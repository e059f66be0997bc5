"""How the workers of this deployment run: data, each value with its reason.

What durability rests on (early acknowledgement, JSON alone, no result backend, no
prefetch) is set by iaflow itself and stands in `iaflow/pipeline/executors/celery.py`.
"""

# Flower is part of the product: it needs the events and the remote control. A hardened
# deployment turns both off.
worker_send_task_events = True
worker_enable_remote_control = True

# A child is replaced now and then, so that a leak in a step's library stays small.
worker_max_tasks_per_child = 10_000
# KiB: a child that has grown beyond it is replaced after the step that it is at.
worker_max_memory_per_child = 1_048_576

# The child of a step that ignores its timeout is killed: the last resort, so far above
# any timeout that a definition should set.
task_time_limit = 24 * 60 * 60

# Connections are opened when they are needed, and there are few. The limit must be above the
# threads of Flower, each of which holds one while it waits for a second: at 4 they waited for
# each other for ever, and Flower showed nothing.
broker_pool_limit = 40
