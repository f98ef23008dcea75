"""The server's writer, with a client that is interrupted in the middle of a request."""

import asyncio
import gc
import logging
import os
import signal
from collections import deque

import pytest

from lightning_focal.rephrasing.writers import Ask, ServerWriter
from lightning_focal.servers import ChatReply


class Interrupted:
    """Ctrl-C comes while a request is being written, in whichever task writes it."""

    concurrency = 2

    def __init__(self):
        self.closed = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.close()

    async def check(self):
        pass

    async def close(self):
        self.closed += 1

    async def complete(self, chat, **body):
        write = asyncio.create_task(self.write(interrupted=body["seed"] == 1))  # as the HTTP library does
        await asyncio.sleep(0.01)
        await write
        return ChatReply("yes")

    async def write(self, interrupted):
        if interrupted:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_the_wait_and_leaves_no_task_behind(caplog):
    client = Interrupted()
    replies = ServerWriter(client, {}).replies(deque(Ask(f"q{i}", ({"role": "user", "content": "?"},), seed=i) for i in range(5)))
    with caplog.at_level(logging.ERROR, "asyncio"), pytest.raises(KeyboardInterrupt):
        list(replies)
    gc.collect()  # asyncio complains of an error that nobody asked for when its task goes
    assert client.closed == 2  # after the check, and now
    assert not caplog.records
