"""A language model behind an OpenAI-compatible server as the judge."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from itertools import chain
from typing import Any, ClassVar, Literal

from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges.base import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.judges.cache import VerdictCache
from lightning_focal.judges.http.prompting import DEFAULT_TEMPLATE, Form, digest, fill, read_template
from lightning_focal.judges.http.verdicts import CUT_OFF, RESPONSE_FORMAT, read_verdicts
from lightning_focal.rubrics.criterion import Criterion
from lightning_focal.servers import AgainError, ChatClient, ChatRefused, ChatReply, ChatUnavailable

__all__ = ["Batch", "HTTPJudge", "Question"]

_log = logging.getLogger(__name__)
_OURS = ("model", "messages", "temperature", "response_format", "stream", "n")


class HTTPJudge(Judge):
    """Asks a chat server (vLLM, llama.cpp, a vendor) for verdicts.

    The response is fenced as data, and a verdict counts only under an id that no response can know
    (:func:`~lightning_focal.judges.http.verdicts.read_verdicts`). What cannot be judged within attempts and time is
    ``Outcome.ERROR`` with the reason, never a 0; criteria that a reply leaves out are asked again, those it judges are kept. An
    empty response is not asked about: it meets nothing, and every fault (ours, as :class:`RuleJudge`). Equal questions of a batch
    are asked once. Ctrl-C ends a batch within two seconds; verdicts that came by then are in the cache.

    Args:
        url: of the API, such as ``http://localhost:8000/v1``.
        model: as the server calls it.
        key_env: name of the environment variable that holds the key; None = the server wants none. The key itself is kept nowhere.
        per: ``response`` asks about all criteria of a response at once, ``criterion`` about each by itself.
        concurrency: requests at a time, of this process.
        requests_per_minute: requests started in a minute, repetitions included, of this process; None = no limit.
        attempts: times a request is tried: on 429, 5xx, broken connections, time-outs, and replies without all verdicts.
        timeout_s: seconds for one try.
        deadline_s: seconds for a batch, from its last request on.
        temperature: of the reply; None leaves it to the server.
        structured: ask the server to hold the reply to the schema (``response_format``); where it refuses, this is logged once and
            the prompt alone asks for it.
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

    default_template: ClassVar[str] = DEFAULT_TEMPLATE

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
        self.structured, self.partial, self.body, self.deadline_s = structured, partial, dict(body or {}), deadline_s
        priced = (prompt_price, completion_price) != (None, None)
        self.prices = (prompt_price or 0.0, completion_price or 0.0) if priced else None
        self.template = read_template(template, self.default_template)
        limits: dict[str, Any] = {"attempts": attempts, "concurrency": concurrency, "requests_per_minute": requests_per_minute}
        limits |= {"timeout_s": timeout_s, "deadline_s": deadline_s, "first_wait_s": first_wait_s, "max_wait_s": max_wait_s}
        self._client = bind(ChatClient, url, model, key_env, **limits)
        client = self._client()  # says what is wrong with the arguments, and that the key is there
        self.longest_s = client.longest_s
        """Seconds that one request can take, with its repetitions."""
        settings = [per, temperature, structured, partial, self.body, digest(self.template)]
        self.identity = json.dumps([identity or f"{client.url} {client.model}", *settings], sort_keys=True)
        self.cache = None if cache is None else VerdictCache(cache, cache_bytes)
        self.schema_refused = False
        """True once the server has refused to hold replies to the schema."""
        self._last = self._numbers(client, 0, 0)

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion without words."""
        if not criterion.description.strip() and not criterion.name.strip():
            raise ValueError(f"{criterion.where}: `description` must say what to judge, got {criterion.description!r}")

    def prepare(self) -> None:
        """Ask the server whether it is there and takes the key; ``ChatUnusable`` if not."""
        self.offered()

    def offered(self) -> list[str]:
        """Return the models that the server lists; empty where it has no list. Errors as :meth:`prepare`."""
        with self._client() as client:
            return client.start(client.models()).result()

    def overlaps(self, criterion: Criterion) -> bool:
        """Yes: it waits for a server."""
        return True

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Judge every request; ``ChatUnusable`` at once where none can succeed: the key is rejected, or the model is unknown."""
        return self.judge_stream([requests])

    def judge_stream(self, parts: Iterable[Sequence[JudgeRequest]]) -> list[tuple[Verdict, ...]]:
        """See :class:`Judge`: one client for all, and what is equal is asked once."""
        client, batch = self._client(), Batch()
        sheets = (sheet for part in parts for sheet in self._sheets(batch, part))
        try:
            if (first := next(sheets, None)) is not None:
                with client:
                    client.run_stream(
                        (bind(self._fill, client, batch, sheet) for sheet in chain([first], sheets)), self.deadline_s
                    )
        finally:
            self._last = self._numbers(client, batch.hits, batch.asked)
        return batch.answers(f"no verdict within the {self.deadline_s:g} s of the batch")

    def _sheets(self, batch: Batch, part: Sequence[JudgeRequest]) -> Iterator[list[Question]]:
        """Add requests to the batch; what is to be asked about them and is not in the cache, as it is asked."""
        requests = self._requests(part)
        questions = batch.add(requests, [verdict_keys(self.identity, one, bind(self._about, one)) for one in requests])
        if self.cache is not None:
            known = self.cache.get(question.key for question in questions)
            batch.verdicts |= known
            batch.hits += len(known)
        yield from self._together([question for question in questions if question.key not in batch.verdicts])

    def _requests(self, part: Sequence[JudgeRequest]) -> Sequence[JudgeRequest]:
        """Requests with all that their verdicts depend on."""
        return part

    def _about(self, request: JudgeRequest, criterion: Criterion) -> Any:
        """What is looked at beside chat and criterion, as JSON knows it."""
        return request.text(criterion)

    def _together(self, questions: Sequence[Question]) -> list[list[Question]]:
        """Questions as they are asked: those of one part of a response together, or each by itself (``per="criterion"``)."""
        sheets: dict[Any, list[Question]] = {}
        for question in questions:
            part = (question.place, question.criterion.scope)
            sheets.setdefault(question.key if self.per == "criterion" else part, []).append(question)
        return list(sheets.values())

    def measures(self) -> dict[str, float]:
        """Return :meth:`ChatClient.measures` of the last batch in this process, with prices ``cost``, with a cache ``cache_hit_rate``."""
        return dict(self._last)

    async def _fill(self, client: ChatClient, batch: Batch, sheet: list[Question]) -> None:
        """Ask until every question of a sheet has its verdict, or say why it has none."""
        missing = list(sheet)

        def write() -> tuple[Form, str]:
            form = Form.new([question.criterion for question in missing], self.partial)
            return form, fill(self.template, sheet[0].request, form)

        def take(found: Mapping[int, Verdict]) -> bool:
            verdicts = {missing[place].key: verdict for place, verdict in found.items()}
            self._keep(batch, verdicts)
            missing[:] = [question for question in missing if question.key not in verdicts]
            return not missing

        why = await self._converse(client, write, take)
        batch.reasons |= {question.key: why for question in missing}

    def _keep(self, batch: Batch, verdicts: Mapping[bytes, Verdict]) -> None:
        batch.verdicts |= verdicts
        if self.cache is not None:
            self.cache.put(verdicts)

    async def _converse(
        self, client: ChatClient, write: Callable[[], tuple[Form, str]], take: Callable[[Mapping[int, Verdict]], bool]
    ) -> str:
        """Ask until ``take`` says of what a reply holds that nothing is missing; return why something is, or nothing."""
        form, refusal = Form.new(()), ""
        structured = self.structured and not self.schema_refused

        def compose() -> Mapping[str, Any]:
            nonlocal form
            form, prompt = write()
            return {
                "messages": [{"role": "user", "content": prompt}],
                "temperature": self.temperature,
                "response_format": RESPONSE_FORMAT if structured else None,
                **self.body,
            }

        def read(reply: ChatReply) -> None:
            if refusal and not self.schema_refused:  # without a schema it answers
                self.schema_refused = True
                _log.warning("the judge goes on without `response_format`, its prompt alone asks for JSON: %s", refusal)
            cut = reply.finish_reason == "length"
            found, fault = read_verdicts("" if reply.instead else reply.text, form, cut)
            if reply.instead:
                fault = f"{reply.instead}, {CUT_OFF}" if cut else reply.instead
            if not take(found):
                raise AgainError(fault)

        try:
            try:
                await client.ask(compose, read)
            except ChatRefused as error:
                if not structured:
                    raise
                structured, refusal = False, str(error)
                await client.ask(compose, read)
        except (ChatRefused, ChatUnavailable) as error:
            return str(error)
        return ""

    def _numbers(self, client: ChatClient, hits: int, asked: int) -> dict[str, float]:
        numbers = client.measures()
        if self.prices is not None:
            numbers["cost"] = (numbers["prompt_tokens"] * self.prices[0] + numbers["completion_tokens"] * self.prices[1]) / 1e6
        if self.cache is not None:
            numbers["cache_hit_rate"] = hits / asked if asked else float("nan")
        return numbers


@dataclass(frozen=True)
class Question:
    """One criterion of one response, what its verdict is remembered under, and the place of its request in the batch."""

    key: bytes
    criterion: Criterion
    request: JudgeRequest
    place: int


class Batch:
    """Requests as questions, each of them once, and by their keys what is known: the verdict, or the reason why there is none."""

    def __init__(self) -> None:
        self.keys: list[list[bytes]] = []
        self.verdicts: dict[bytes, Verdict] = {}
        self.reasons: dict[bytes, str] = {}
        self.asked = self.hits = 0
        self._met: set[bytes] = set()

    def add(self, requests: Sequence[JudgeRequest], keys: Sequence[list[bytes]]) -> list[Question]:
        """Return what is new; what is asked of an empty response has its verdict."""
        new = []
        for request, row in zip(requests, keys, strict=True):
            for key, criterion in zip(row, request.criteria, strict=True):
                if (verdict := request.empty(criterion)) is not None:
                    self.verdicts[key] = verdict
                elif key not in self._met:
                    self._met.add(key)
                    new.append(Question(key, criterion, request, len(self.keys)))
            self.keys.append(row)
        self.asked += len(new)
        return new

    def answers(self, otherwise: str) -> list[tuple[Verdict, ...]]:
        """One verdict a criterion; what has none is an error with its reason."""

        def answer(key: bytes) -> Verdict:
            return self.verdicts.get(key) or Verdict(Outcome.ERROR, reason=self.reasons.get(key, otherwise))

        return [tuple(answer(key) for key in keys) for keys in self.keys]


def verdict_keys(identity: str, request: JudgeRequest, about: Callable[[Criterion], Any]) -> list[bytes]:
    """Return a key for each criterion of a request, made of all that the verdict depends on; ``about`` gives what is looked at."""
    chat, keys = [[message["role"], message["content"]] for message in request.messages], []
    for criterion in request.criteria:
        again = [request.repeat] if request.repeat else []
        looked_at = hashlib.sha256(json.dumps([identity, chat, about(criterion), *again]).encode()).digest()
        words, part = criterion.description.strip() or criterion.name, criterion.scope
        parts = [part] if part != "answer" else []
        asked = json.dumps([words, criterion.low, criterion.high, criterion.is_fault, *parts])
        keys.append(hashlib.sha256(looked_at + hashlib.sha256(asked.encode()).digest()).digest())
    return keys
