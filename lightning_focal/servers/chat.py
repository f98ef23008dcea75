"""A client of OpenAI-compatible chat servers: vLLM, llama.cpp, a vendor."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_focal.servers.address import Key, base_url
from lightning_focal.servers.replies import (
    AgainError,
    ChatError,
    ChatRefused,
    ChatReply,
    ChatUnavailable,
    ChatUnusable,
    read_reply,
    retry_after,
    shortened,
)

if TYPE_CHECKING:
    import openai

__all__ = ["ChatClient"]

_T = TypeVar("_T")
_LARGEST = 4 << 20  # bytes of a response: a chat completion of a million tokens has fewer
_CHECK_S = 20.0
_GRACE_S = 1.5  # for requests under way to end, and connections to close, when somebody presses Ctrl-C


class ChatClient:
    """Asks ``POST <url>/chat/completions`` through ``openai.AsyncOpenAI``, and repeats what may succeed later.

    Repeated are 408, 425, 429, 5xx, broken connections, time-outs and replies that are no chat completion: after the server's own
    ``Retry-After``, else after ``first_wait_s``, twice that, and so on up to ``max_wait_s``, with jitter. Within ``with client:`` an
    event loop runs in a thread of its own, so that Ctrl-C never breaks into the middle of a request and a caller may itself be
    called from a running loop. At the end of the block, whatever ends it, requests under way are cancelled and connections closed.

    The key is read from the environment when the block begins, and stands in no message. Proxies are those of the environment
    (``HTTPS_PROXY``, ``NO_PROXY``, ...).

    Args:
        url: of the API, such as ``http://localhost:8000/v1``; ``/v1`` is added where there is no path.
        model: as the server calls it.
        key_env: name of the environment variable that holds the key; None = the server wants none.
        concurrency: jobs that :meth:`run` has under way at a time.
        attempts: times a request is tried.
        timeout_s: seconds for one try.
        deadline_s: seconds for a request, waiting and repetitions included.
        first_wait_s: seconds before the second try.
        max_wait_s: longest wait between tries that this client chooses itself, in seconds.
        requests_per_minute: requests started in a minute, repetitions included; None = no limit.

    Raises:
        ValueError: on an argument out of range, a URL that is not http(s) or holds a password, or a key that is not there.
        ImportError: where the packages of the extra ``http`` are missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str | None = None,
        concurrency: int = 8,
        attempts: int = 6,
        timeout_s: float = 120.0,
        deadline_s: float = 600.0,
        first_wait_s: float = 1.0,
        max_wait_s: float = 30.0,
        requests_per_minute: float | None = None,
    ) -> None:
        for name, count in {"concurrency": concurrency, "attempts": attempts}.items():
            if count < 1:
                raise ValueError(f"`{name}` must be >= 1, got {count}")
        limits = {"timeout_s": timeout_s, "deadline_s": deadline_s, "first_wait_s": first_wait_s, "max_wait_s": max_wait_s}
        for name, seconds in limits.items():
            if not seconds > 0:
                raise ValueError(f"`{name}` must be > 0 seconds, got {seconds}")
        if requests_per_minute is not None and not 0 < requests_per_minute < math.inf:
            raise ValueError(f"`requests_per_minute` must be > 0, or null for no limit, got {requests_per_minute}")
        if not model.strip():
            raise ValueError("`model` must name the model as the server calls it, got an empty string")
        try:
            import aiohttp  # noqa: F401
            import openai  # noqa: F401
        except ImportError as error:
            raise ImportError(f"a chat server is asked with {error.name}: pip install 'lightning-focal[http]'") from error
        self.url, self.model, self.key_env = base_url(url), model, key_env
        self.concurrency, self.attempts = concurrency, attempts
        self.timeout_s, self.deadline_s, self.first_wait_s, self.max_wait_s = timeout_s, deadline_s, first_wait_s, max_wait_s
        self._counts = {"requests": 0, "retries": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._seconds: list[float] = []  # of each reply
        self._key = Key(key_env)
        self._distance_s = 0.0 if requests_per_minute is None else 60.0 / requests_per_minute
        self._next_start = 0.0
        self._dice = random.Random()  # jitter leaves the global random state alone

    @property
    def longest_s(self) -> float:
        """Seconds that one request can take, with its repetitions."""
        return min(self.deadline_s, self.attempts * self.timeout_s + (self.attempts - 1) * self.max_wait_s)

    def measures(self) -> dict[str, float]:
        """Return what was asked so far, in numbers.

        ``requests`` (repetitions included), ``retries``, ``prompt_tokens`` and ``completion_tokens`` as the server counts,
        ``latency_s`` (mean) and ``latency_max_s`` of a reply from sending to the last byte, NaN without any.
        """
        seconds = self._seconds or [math.nan]
        counts = {name: float(count) for name, count in self._counts.items()}
        return {**counts, "latency_s": math.fsum(seconds) / len(seconds), "latency_max_s": max(seconds)}

    def __enter__(self) -> ChatClient:
        self._openai, ready = self._connect(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(ready)), name="chat", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_GRACE_S)

    async def _live(self, ready: threading.Event) -> None:
        async with self._openai:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._over.wait()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _connect(self) -> openai.AsyncOpenAI:
        import openai

        key, nothing = self._key.read(), openai.Omit()
        vendor = {"OpenAI-Organization": nothing, "OpenAI-Project": nothing}  # from the environment, for one server
        self._options: Any = {"headers": {**vendor, **({} if key else {"Authorization": nothing})}}
        return openai.AsyncOpenAI(
            base_url=self.url,
            api_key=key or "none",  # None would send $OPENAI_API_KEY to whoever the server is
            # Repeated here and not there: replies that cannot be read are asked for anew, within the same number of attempts.
            max_retries=0,
            timeout=None,  # that of the library counts from the last byte that came
            http_client=openai.DefaultAioHttpClient(follow_redirects=False),  # a third of the processor time of the default
        )

    def start(self, job: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin one of this client's coroutines, such as :meth:`ask`, within the block."""
        return asyncio.run_coroutine_threadsafe(job, self._loop)

    def run(self, next_job: Callable[[], Coroutine[Any, Any, _T] | None], seconds: float | None = None) -> Iterator[_T]:
        """Run jobs, ``concurrency`` at a time, for so many seconds (None = no limit); yields what they give, as they end.

        ``next_job`` is called whenever there is room for a job; None = there is none at present.
        """
        done: SimpleQueue[Future[_T]] = SimpleQueue()
        running, until = 0, math.inf if seconds is None else time.monotonic() + seconds
        while True:
            while running < self.concurrency and (job := next_job()) is not None:
                self.start(job).add_done_callback(done.put)
                running += 1
            if not running:
                return
            try:
                ended = done.get(timeout=None if seconds is None else max(0.0, until - time.monotonic()))
            except Empty:
                return
            running -= 1
            yield ended.result()

    def run_stream(self, jobs: Iterable[Callable[[], Coroutine[Any, Any, None]]], seconds: float) -> None:
        """Run jobs as they come, ``concurrency`` at a time; ``jobs`` may wait for the next. Raises what the first broken one raises.

        Whatever breaks the wait (Ctrl-C), no further job begins then, and those under way have a moment to end.

        Args:
            jobs: what begins each job.
            seconds: for what is left once the last one has come.
        """
        room, running, over = asyncio.Semaphore(self.concurrency), list[Future[None]](), threading.Event()

        async def in_turn(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
            async with room:
                if over.is_set():
                    return
                try:
                    await job()
                except BaseException:
                    over.set()
                    raise

        try:
            for job in jobs:
                running.append(self.start(in_turn(job)))
                if over.is_set():
                    break
            wait(running, seconds, return_when=FIRST_EXCEPTION)
        except BaseException:
            over.set()
            wait(running, _GRACE_S)
            raise
        for one in running:
            if one.done():
                one.result()

    async def ask(self, compose: Callable[[], Mapping[str, Any]], read: Callable[[ChatReply], _T]) -> _T:
        """Ask for a completion, until a reply can be read.

        Args:
            compose: gives the request, anew for each try: ``messages`` and further parameters as the server knows them
                (``temperature``, ``max_tokens``, ``seed``, ``response_format``, ...); those that are None are left out.
            read: makes of a reply what is wanted of it, or raises ``AgainError`` where that cannot be: the request is repeated.

        Raises:
            ChatUnusable: at once, if the key is rejected (401, 403) or the model or address is unknown (404).
            ChatRefused: at once, on any other 4xx.
            ChatUnavailable: when attempts or time ran out.
        """
        until, tries, said = time.monotonic() + self.deadline_s, 0, ""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.deadline_s):
                while True:
                    tries += 1
                    try:
                        return read(await self._reply(compose(), repeated=tries > 1))
                    except AgainError as error:
                        wait, said = self._wait(tries, error.retry_after), f": {error}"
                    if tries == self.attempts or time.monotonic() + wait > until:
                        break
                    await asyncio.sleep(wait)
        limits = f"at most {self.attempts} tries and {self.deadline_s:g} s"
        raise ChatUnavailable(f"{self.url} gave no usable reply in {tries} of {limits}{said}")

    async def models(self) -> list[str]:
        """Return the models that a server offers, empty without a list; ChatUnusable if nobody answers or the key is rejected."""
        import openai

        try:
            asking = self._openai.get("/models", cast_to=bytes, options=self._options)
            content = await self._send(asking, min(self.timeout_s, _CHECK_S))
            return [str(entry["id"]) for entry in json.loads(content)["data"]]
        except AgainError as error:
            raise ChatUnusable(f"no server answers at {self.url} ({error}); is it running?") from None
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._key_rejected(error) from None
            return []
        except (ValueError, KeyError, TypeError, RecursionError):
            return []

    async def _reply(self, request: Mapping[str, Any], repeated: bool) -> ChatReply:
        import openai

        if self._distance_s:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + self._distance_s
            await asyncio.sleep(start - time.monotonic())
        self._counts["requests"] += 1
        self._counts["retries"] += repeated
        body = {"model": self.model, **{name: value for name, value in request.items() if value is not None}}
        body["messages"] = [  # half a surrogate pair is no UTF-8
            {**message, "content": message["content"].encode("utf-8", errors="replace").decode("utf-8")}
            for message in request["messages"]
        ]
        began = time.monotonic()
        try:  # `chat.completions.create` takes half as long again, refuses what it does not know, and reads what is no completion
            sending = self._openai.post("/chat/completions", body=body, cast_to=bytes, options=self._options)
            reply = read_reply(await self._send(sending, self.timeout_s))
        except openai.APIStatusError as error:
            raise await self._meaning(error) from None
        self._seconds.append(time.monotonic() - began)
        self._counts["prompt_tokens"] += reply.prompt_tokens or 0
        self._counts["completion_tokens"] += reply.completion_tokens or 0
        return replace(reply, text=self._key.hidden(reply.text), instead=self._key.hidden(reply.instead))

    async def _send(self, sending: Awaitable[bytes], seconds: float) -> bytes:
        """Return the body of a response; AgainError if nothing, too little or too much came."""
        import aiohttp
        import openai

        try:
            async with asyncio.timeout(seconds):
                content = await sending
        except openai.APIStatusError:
            raise
        except TimeoutError:
            raise AgainError(f"no answer within {seconds:g} s") from None
        except (openai.APIError, aiohttp.ClientError, OSError, ValueError) as error:  # of broken headers, the last three
            cause: BaseException = error
            while cause.__cause__ is not None and not isinstance(cause, aiohttp.ClientError):  # what stands around it says less
                cause = cause.__cause__
            raise AgainError(f"{type(cause).__name__}: {self._key.hidden(shortened(str(cause)))}") from None
        if len(content) > _LARGEST:
            raise AgainError(f"the response is longer than {_LARGEST >> 20} MiB")
        return content

    async def _meaning(self, error: openai.APIStatusError) -> ChatError:
        """What a status means that is no success."""
        status = error.status_code
        if status in (408, 425, 429) or status >= 500:
            seconds = retry_after(error.response.headers.get("retry-after"))
            return AgainError(self._said(error, "" if seconds is None else f", asks to wait {seconds:g} s"), seconds)
        if status == 401 or (status == 403 and not self._seconds):  # later a 403 is about the request: the key was taken
            return self._key_rejected(error)
        unknown, names = status == 404 or (status == 400 and error.code == "model_not_found"), list[str]()
        if unknown or (status in (400, 422) and self.model in error.response.text):
            with suppress(ChatUnusable):
                names = await self.models()
            # some servers say in words alone that they serve another model
            unknown = unknown or (self.model not in names and not self._seconds)
        if unknown:
            offers = f"; it offers {', '.join(names[:10])}" if names else ""
            return ChatUnusable(f"{self.url} knows no model {self.model!r}, or no chat completions ({self._said(error)}){offers}")
        return ChatRefused(f"the server refuses the request ({self._said(error)})")

    def _key_rejected(self, error: openai.APIStatusError) -> ChatUnusable:
        which = f"rejects the key in {self.key_env!r}" if self.key_env else "wants a key: name the variable that holds it"
        return ChatUnusable(f"{self.url} {which} ({self._said(error)})")

    def _said(self, error: openai.APIStatusError, more: str = "") -> str:
        return f"status {error.status_code}{more}: {shortened(self._key.hidden(error.response.text))}"

    def _wait(self, tries: int, asked: float | None) -> float:
        """Seconds before the next try; never the same for all who wait."""
        if asked is not None:
            return asked + self._dice.uniform(0, min(1.0, self.first_wait_s))
        longest = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(tries - 1, 60))
        return self._dice.uniform(longest / 2, longest)
