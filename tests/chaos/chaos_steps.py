"""Steps that say in a ledger, outside of all that is tested, what they really do."""

import asyncio
import os
import time
import uuid
from typing import Any

from iaflow.pipeline import Step

LEDGER = os.environ.get("CHAOS_LEDGER", "ledger")


def note(phase: str, context: Any, nonce: str) -> None:
    line = (
        f"{phase} {context.run_id} {context.step_id} {context.attempt} {nonce} {os.getpid()} "
        f"{time.monotonic()}\n"
    )
    handle = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


class Adds(Step):
    """Adds one to the sum of its inputs; takes `config.ms` milliseconds; may fail at first."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        nonce = uuid.uuid4().hex
        note("begun", self.context, nonce)
        await asyncio.sleep(self.config.get("ms", 0) / 1000)
        if self.context.attempt <= self.config.get("failures", 0):
            raise RuntimeError("as it was told to")
        note("ended", self.context, nonce)
        return {"value": sum(data.get("from", [])) + 1, "nonce": nonce}
