"""Who writes the rephrasings: a chat server, or a model in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import encode_chat, load_policy
from lightning_focal.servers import ChatClient, ChatError, ChatRefused, ChatReply, ChatUnavailable
from lightning_focal.types import Message, Prompts

__all__ = ["Answered", "Ask", "LocalWriter", "ServerWriter", "Writer"]


@dataclass(frozen=True)
class Ask:
    """One question to a writer: the row's id, what is asked, the reply's seed (None = any), and the attempt, counted from 0."""

    id: str
    chat: tuple[Message, ...]
    seed: int | None = None
    attempt: int = 0


Answered = tuple[Ask, ChatReply | ChatError]
"""A question with its reply, or with the reason why there is none: ``ChatRefused`` where it was not taken, else ``ChatUnavailable``."""


class Writer(ABC):
    """Answers questions, several at a time, in any order."""

    width: int
    """Questions that are under way at once."""

    @abstractmethod
    def replies(self, queue: deque[Ask]) -> Generator[Answered, None, None]:
        """Answer until the queue is empty; what is put into it meanwhile is answered, too. What concerns every question is raised."""


class ServerWriter(Writer):
    """An OpenAI-compatible server; ``body`` holds parameters of every request. ChatUnusable if nobody answers or the key is rejected."""

    def __init__(self, client: ChatClient, body: Mapping[str, Any]) -> None:
        self.client, self.body, self.width = client, dict(body), client.concurrency
        with client:
            client.start(client.models()).result()

    def replies(self, queue: deque[Ask]) -> Generator[Answered, None, None]:
        """See :meth:`Writer.replies`."""

        def next_job() -> Coroutine[Any, Any, Answered] | None:
            return self._answered(queue.popleft()) if queue else None

        with self.client:
            yield from self.client.run(next_job)

    async def _answered(self, ask: Ask) -> Answered:
        try:
            request = {"messages": ask.chat, **self.body, "seed": ask.seed}
            return ask, await self.client.ask(lambda: request, lambda reply: reply)
        except (ChatRefused, ChatUnavailable) as error:
            return ask, error


class LocalWriter(Writer):
    """A model in this process, on the GPU where there is one. See :func:`~lightning_focal.models.load_policy` for ``policy``."""

    def __init__(self, policy: str, sampling: Sampling, batch_size: int = 8, dtype: str = "float32") -> None:
        import torch

        self.model, self.tokenizer = load_policy(policy, dtype=dtype)
        self.model = self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.sampling, self.width = sampling, batch_size
        self.generator = HFGenerator(batch_size=batch_size)
        self.context: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def replies(self, queue: deque[Ask]) -> Generator[Answered, None, None]:
        """See :meth:`Writer.replies`."""
        longest = self.sampling.max_new_tokens
        while queue:
            batch: list[tuple[Ask, tuple[int, ...]]] = []
            while queue and len(batch) < self.width:
                ask = queue.popleft()
                tokens = encode_chat(self.tokenizer, ask.chat)
                if self.context is not None and len(tokens) + longest > self.context:
                    said = f"{len(tokens)} tokens to read and {longest} to write, the model's context is {self.context}"
                    yield ask, ChatRefused(said)
                else:
                    batch.append((ask, tokens))
            if batch:
                yield from self._answers(batch)

    def _answers(self, batch: list[tuple[Ask, tuple[int, ...]]]) -> Generator[Answered, None, None]:
        asks, tokens = zip(*batch, strict=True)
        prompts = Prompts(ids=tuple(ask.id for ask in asks), messages=tuple(ask.chat for ask in asks), tokens=tokens)
        seeds, asked = [ask.seed or 0 for ask in asks], (self.model, self.tokenizer, prompts)
        rollouts = self.generator.generate(*asked, group_size=1, seeds=seeds, sampling=self.sampling)
        for ask, texts, cut in zip(asks, rollouts.texts, rollouts.truncated[:, 0].tolist(), strict=True):
            yield ask, ChatReply(texts[0], "length" if cut else "stop")
