"""A language model behind an OpenAI-compatible server as the judge."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges.base import Judge, JudgeRequest, Verdict
from lightning_focal.judges.cache import VerdictCache
from lightning_focal.judges.http.apart import run_apart
from lightning_focal.judges.http.prompting import Form, Template
from lightning_focal.judges.http.questions import Batch, Question
from lightning_focal.judges.http.verdicts import RESPONSE_FORMAT, exact_format, read_verdicts
from lightning_focal.rubrics.criterion import Criterion
from lightning_focal.servers import AgainError, ChatClient, ChatRefused, ChatReply, ChatUnavailable, Tally

__all__ = ["HTTPJudge"]

_log = logging.getLogger(__name__)
_OURS = ("model", "messages", "temperature", "response_format", "stream", "n")


class HTTPJudge(Judge):
    """Asks a chat server (vLLM, llama.cpp, a vendor) for verdicts.

    The response is fenced as data, and a verdict counts only under an id that no response can know
    (:func:`~lightning_focal.judges.http.verdicts.read_verdicts`). What cannot be judged within attempts and time is
    ``Outcome.ERROR`` with the reason, never a 0; criteria that a reply leaves out are asked again, those it judges are kept. An
    empty response is not asked about: it meets nothing, and every fault (ours, as :class:`RuleJudge`). Equal questions of a batch
    are asked once.

    The requests of a batch run in an event loop of their own. Ctrl-C ends them within two seconds; verdicts that were there are in
    the cache.

    Args:
        url: of the API, such as ``http://localhost:8000/v1``.
        model: as the server calls it.
        key_env: name of the environment variable that holds the key; None = the server wants none. The key itself is kept nowhere.
        per: ``response`` asks about all criteria of a response at once, ``criterion`` about each by itself.
        concurrency: requests at a time, of this process.
        requests_per_minute: requests started in a minute, repetitions included, of this process; None = no limit.
        attempts: times a request is tried: on 429, 5xx, broken connections, time-outs, and replies without all verdicts.
        timeout_s: seconds for one try.
        deadline_s: seconds for a batch.
        temperature: of the reply; None leaves it to the server.
        structured: ask the server to hold the reply to the schema (``response_format``); where it refuses, this is logged once and
            the prompt alone asks for it.
        exact_schema: ask for a schema of each request's own, which names its ids and what each can have as a verdict: on a server of
            yours a small judge then cannot miss the form. False = one schema for all requests, which the server compiles once.
        partial: criteria on the scale 0 to 1 may be graded in between, others always are.
        body: further parameters of each request, ``{max_tokens: 1024, seed: 0}``.
        template: file with the words around the data, see :data:`~lightning_focal.judges.http.prompting.DEFAULT_TEMPLATE`.
        cache: file in which verdicts are kept, for later runs and other processes, too; None = none is kept.
        cache_bytes: its largest size.
        identity: name that verdicts are kept under in place of ``url`` and ``model``: give one to a judge that moves between hosts.
        prompt_price: of a million tokens read, in any currency.
        completion_price: of a million tokens written.
        first_wait_s: seconds before the second try; doubles with every further one, unless the server says how long to wait.
        max_wait_s: longest of these waits in seconds.

    Raises:
        ValueError: on an argument out of range, a template without its fields, a file that is no cache, or a key that is not there.
        ImportError: where the packages of the extra ``http`` are missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str | None = None,
        per: Literal["response", "criterion"] = "response",
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        attempts: int = 6,
        timeout_s: float = 120.0,
        deadline_s: float = 600.0,
        temperature: float | None = 0.0,
        structured: bool = True,
        exact_schema: bool = False,
        partial: bool = False,
        body: dict[str, Any] | None = None,
        template: str | None = None,
        cache: str | None = None,
        cache_bytes: int = 1 << 30,
        identity: str | None = None,
        prompt_price: float | None = None,
        completion_price: float | None = None,
        first_wait_s: float = 1.0,
        max_wait_s: float = 30.0,
    ) -> None:
        expect_choice("per", per, ("response", "criterion"))
        if temperature is not None and not 0 <= temperature < float("inf"):
            raise ValueError(f"`temperature` must be >= 0, or null to leave it to the server, got {temperature}")
        for name in _OURS:
            if name in (body or {}):
                raise ValueError(f"`body` must hold further parameters, got {name!r}, which is set already")
        for name, price in (("prompt_price", prompt_price), ("completion_price", completion_price)):
            if price is not None and not 0 <= price < float("inf"):
                raise ValueError(f"`{name}` must be >= 0 for a million tokens, got {price}")
        self.url, self.model, self.key_env, self.per, self.temperature = url, model, key_env, per, temperature
        if exact_schema and not structured:
            raise ValueError("`exact_schema` must be false where `structured` is false: no schema is sent then")
        self.structured, self.exact_schema, self.partial = structured, exact_schema, partial
        self.body, self.deadline_s = dict(body or {}), deadline_s
        self.prices = (
            None if prompt_price is None and completion_price is None else (prompt_price or 0.0, completion_price or 0.0)
        )
        self._limits: dict[str, Any] = {
            "concurrency": concurrency,
            "requests_per_minute": requests_per_minute,
            "attempts": attempts,
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
            "first_wait_s": first_wait_s,
            "max_wait_s": max_wait_s,
        }
        self.template = Template.read(template)
        client = self._client()  # says what is wrong with the arguments, and that the key is there
        self.identity = self._identity(identity or f"{client.url} {client.model}")
        self.cache = None if cache is None else VerdictCache(cache, cache_bytes)
        self._unstructured = not structured
        self._last = self._numbers(Tally(), 0, 0)

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion without words.

        Raises:
            ValueError: starting with ``criterion.where``.
        """
        if not criterion.description.strip() and not criterion.name.strip():
            raise ValueError(f"{criterion.where}: `description` must say what to judge, got {criterion.description!r}")

    def prepare(self) -> None:
        """Ask the server whether it is there and takes the key.

        Raises:
            ChatUnusable: if nobody answers, or the key is rejected.
        """
        self.offered()

    def offered(self) -> list[str]:
        """Return the models that the server lists; empty where it has no list.

        Raises:
            ChatUnusable: if nobody answers, or the key is rejected.
        """

        async def ask() -> list[str]:
            async with self._client() as client:
                return await client.check()

        return run_apart(ask)

    @property
    def longest_s(self) -> float:
        """Seconds that one request can take, with its repetitions."""
        waits = (self._limits["attempts"] - 1) * self._limits["max_wait_s"]
        return float(min(self.deadline_s, self._limits["attempts"] * self._limits["timeout_s"] + waits))

    @property
    def schema_refused(self) -> bool:
        """True once the server has refused to hold replies to the schema."""
        return self.structured and self._unstructured

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Judge every request; see :meth:`Judge.judge`.

        Raises:
            ChatUnusable: at once, where no request can succeed: the key is rejected, or the model is unknown.
        """
        batch = Batch(requests, self.identity)
        asked = [question.key for question in batch.open]
        if self.cache is not None:
            batch.verdicts |= self.cache.get(asked)
        hits = sum(key in batch.verdicts for key in asked)
        client = self._client()
        try:
            if batch.open:
                run_apart(lambda: self._ask(client, batch))
        finally:
            self._last = self._numbers(client.tally, hits, len(asked))
        return batch.answers()

    def measures(self) -> dict[str, float]:
        """Return what the last batch took, by name, of this process.

        ``requests`` (repetitions included), ``retries``, ``prompt_tokens``, ``completion_tokens``, ``latency_s`` and ``latency_max_s`` (of a
        reply; NaN without any); with prices ``cost``; with a cache ``cache_hit_rate`` (share of the questions, NaN without any).
        """
        return dict(self._last)

    async def _ask(self, client: ChatClient, batch: Batch) -> None:
        """Fill the batch, as far as time allows; a fixed number of workers takes one sheet after the other."""
        sheets = iter(batch.sheets(self.per))

        async def work() -> None:
            for sheet in sheets:
                await self._fill(client, batch, sheet)

        workers = [asyncio.create_task(work()) for _ in range(client.concurrency)]
        try:
            async with asyncio.timeout(self.deadline_s):
                await asyncio.gather(*workers)
        except TimeoutError:
            for question in batch.open:
                batch.reasons.setdefault(question.key, f"no verdict within the {self.deadline_s:g} s of the batch")
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await client.close()

    async def _fill(self, client: ChatClient, batch: Batch, sheet: list[Question]) -> None:
        """Ask until every question of a sheet has its verdict, or say why it has none."""
        request = batch.requests[sheet[0].request]
        form, missing = Form.new(()), list(sheet)

        def compose(structured: bool) -> Mapping[str, Any]:
            nonlocal form
            form = Form.new([question.criterion for question in missing], self.partial)
            return {
                "messages": [{"role": "user", "content": self.template.fill(request, form)}],
                "temperature": self.temperature,
                "response_format": (exact_format(form) if self.exact_schema else RESPONSE_FORMAT) if structured else None,
                **self.body,
            }

        def read(reply: ChatReply) -> None:
            found, fault = read_verdicts(reply.text, form, reply.finish_reason == "length")
            verdicts = {missing[place].key: verdict for place, verdict in found.items()}
            batch.verdicts |= verdicts
            missing[:] = [question for question in missing if question.key not in verdicts]
            if self.cache is not None and verdicts:
                self.cache.put(verdicts)
            if missing:
                raise AgainError(fault)

        try:
            structured = not self._unstructured
            try:
                await client.ask(lambda: compose(structured), read)
            except ChatRefused as error:
                if not structured:
                    raise
                refusal = error

                def read_plain(reply: ChatReply) -> None:
                    self._go_without_schema(refusal)
                    read(reply)

                await client.ask(lambda: compose(False), read_plain)
        except (ChatRefused, ChatUnavailable) as error:
            for question in missing:
                batch.reasons[question.key] = str(error)

    def _go_without_schema(self, error: ChatRefused) -> None:
        if not self._unstructured:
            self._unstructured = True
            _log.warning("the judge goes on without `response_format`, its prompt alone asks for JSON: %s", error)

    def _client(self) -> ChatClient:
        return ChatClient(self.url, self.model, self.key_env, **self._limits)

    def _identity(self, name: str) -> str:
        settings = [name, self.per, self.temperature, self.structured, self.partial, self.body, self.template.digest]
        return json.dumps([*settings, "exact_schema"] if self.exact_schema else settings, sort_keys=True)

    def _numbers(self, tally: Tally, hits: int, asked: int) -> dict[str, float]:
        numbers = {
            "requests": float(tally.requests),
            "retries": float(tally.retries),
            "prompt_tokens": float(tally.prompt_tokens),
            "completion_tokens": float(tally.completion_tokens),
            "latency_s": tally.latency_s,
            "latency_max_s": tally.slowest,
        }
        if self.prices is not None:
            numbers["cost"] = (tally.prompt_tokens * self.prices[0] + tally.completion_tokens * self.prices[1]) / 1e6
        if self.cache is not None:
            numbers["cache_hit_rate"] = hits / asked if asked else float("nan")
        return numbers
