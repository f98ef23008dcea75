"""Who writes the rephrasings: a chat server, or a model in this process."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import encode_chat, load_policy
from lightning_focal.servers import ChatClient, ChatError, ChatRefused, ChatReply, ChatUnavailable
from lightning_focal.types import Message, Prompts

__all__ = ["Ask", "LocalWriter", "ServerWriter", "Writer"]


@dataclass(frozen=True)
class Ask:
    """One question to a writer.

    Args:
        id: of the row.
        chat: what is asked.
        seed: of the reply; None = whatever comes.
        attempt: counted from 0.
    """

    id: str
    chat: tuple[Message, ...]
    seed: int | None = None
    attempt: int = 0


class Writer(ABC):
    """Answers questions, several at a time, in any order."""

    width: int
    """Questions that are under way at once."""

    @abstractmethod
    def replies(self, queue: deque[Ask]) -> Iterator[tuple[Ask, ChatReply | ChatError]]:
        """Answer until the queue is empty; what is put into it meanwhile is answered, too.

        Yields:
            Each question with its reply, or with the reason why there is none: ``ChatRefused`` where it was not taken,
            ``ChatUnavailable`` where nobody answered. What concerns every question is raised.
        """


class ServerWriter(Writer):
    """An OpenAI-compatible server.

    Args:
        client: who asks it.
        body: parameters of every request.

    Raises:
        ChatUnusable: if nobody answers at its address, or the key is rejected.
    """

    def __init__(self, client: ChatClient, body: Mapping[str, Any]) -> None:
        self.client, self.body, self.width = client, dict(body), client.concurrency
        asyncio.run(self._check())

    async def _check(self) -> None:
        async with self.client:
            await self.client.check()

    def replies(self, queue: deque[Ask]) -> Iterator[tuple[Ask, ChatReply | ChatError]]:
        """See :meth:`Writer.replies`."""
        under_way: dict[asyncio.Task[ChatReply | ChatError], Ask] = {}
        with asyncio.Runner() as runner:  # Ctrl-C ends the wait, it never breaks into the middle of a request
            loop = runner.get_loop()
            try:
                while queue or under_way:
                    while queue and len(under_way) < self.width:
                        ask = queue.popleft()
                        under_way[loop.create_task(self._reply(ask))] = ask
                    done, _ = runner.run(asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED))
                    for task in done:
                        yield under_way.pop(task), task.result()
            finally:
                runner.run(self._stop(list(under_way)))

    async def _stop(self, tasks: list[asyncio.Task[ChatReply | ChatError]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    async def _reply(self, ask: Ask) -> ChatReply | ChatError:
        try:
            return await self.client.complete(ask.chat, **{**self.body, "seed": ask.seed})
        except (ChatRefused, ChatUnavailable) as error:
            return error


class LocalWriter(Writer):
    """A model in this process, on the GPU where there is one.

    Args:
        policy: where it comes from, see :func:`~lightning_focal.models.load_policy`.
        sampling: how replies are drawn.
        batch_size: questions answered at once.
        dtype: of the weights.
    """

    def __init__(self, policy: str, sampling: Sampling, batch_size: int = 8, dtype: str = "float32") -> None:
        import torch

        self.model, self.tokenizer = load_policy(policy, dtype=dtype)
        self.model = self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.sampling, self.width = sampling, batch_size
        self.generator = HFGenerator(batch_size=batch_size)
        self.context: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def replies(self, queue: deque[Ask]) -> Iterator[tuple[Ask, ChatReply | ChatError]]:
        """See :meth:`Writer.replies`."""
        while queue:
            batch: list[tuple[Ask, tuple[int, ...]]] = []
            while queue and len(batch) < self.width:
                ask = queue.popleft()
                tokens = encode_chat(self.tokenizer, ask.chat)
                if self.context is not None and len(tokens) + self.sampling.max_new_tokens > self.context:
                    yield (
                        ask,
                        ChatRefused(
                            f"{len(tokens)} tokens to read and {self.sampling.max_new_tokens} to write, the model's context is {self.context}"
                        ),
                    )
                else:
                    batch.append((ask, tokens))
            if batch:
                yield from self._answers(batch)

    def _answers(self, batch: list[tuple[Ask, tuple[int, ...]]]) -> Iterator[tuple[Ask, ChatReply]]:
        asks = [ask for ask, _ in batch]
        prompts = Prompts(
            ids=tuple(ask.id for ask in asks),
            messages=tuple(ask.chat for ask in asks),
            tokens=tuple(tokens for _, tokens in batch),
        )
        rollouts = self.generator.generate(
            self.model, self.tokenizer, prompts, group_size=1, seeds=[ask.seed or 0 for ask in asks], sampling=self.sampling
        )
        for ask, texts, cut in zip(asks, rollouts.texts, rollouts.truncated[:, 0].tolist(), strict=True):
            yield ask, ChatReply(texts[0], "length" if cut else "stop")
