"""A client of OpenAI-compatible chat servers: vLLM, llama.cpp, a vendor."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_focal.servers.address import base_url, proxy_of
from lightning_focal.servers.errors import ChatRefused, ChatUnavailable, ChatUnusable
from lightning_focal.servers.key import Key
from lightning_focal.servers.pace import Pace
from lightning_focal.servers.replies import AgainError, ChatReply, Received, expect_accepted, read_reply, shortened
from lightning_focal.servers.tally import Tally
from lightning_focal.types import Message

if TYPE_CHECKING:
    import aiohttp
    from tenacity import RetryCallState

__all__ = ["ChatClient"]

_T = TypeVar("_T")
_LARGEST = 4 << 20  # bytes of a response: a chat completion of a million tokens has fewer
_CHECK_S = 20.0


class ChatClient:
    """Asks ``POST <url>/chat/completions``, several requests at a time, and repeats what may succeed later.

    Repeated are 408, 425, 429, 5xx, broken connections, time-outs and replies that are no chat completion: after the server's own
    ``Retry-After``, else after ``first_wait_s``, twice that, and so on up to ``max_wait_s``, with jitter. A request keeps its
    place among the ``concurrency`` while it waits: a server that is short of breath is asked less. One client, one event loop at a
    time.

    The key is read from the environment at each request; it is kept in no attribute and stands in no message. Proxies are those of
    the environment (``HTTPS_PROXY``, ``NO_PROXY``, ...). Responses are read up to 4 MiB.

    Args:
        url: of the API, such as ``http://localhost:8000/v1``; ``/v1`` is added where there is no path.
        model: as the server calls it.
        key_env: name of the environment variable that holds the key; None = the server wants none.
        concurrency: requests at a time.
        attempts: times a request is tried.
        timeout_s: seconds for one try.
        deadline_s: seconds for a request, waiting and repetitions included.
        first_wait_s: seconds before the second try.
        max_wait_s: longest wait between tries that this client chooses itself, in seconds.
        requests_per_minute: requests started in a minute, repetitions included; None = no limit.

    Attributes:
        tally: what was asked so far, in numbers.

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
        limits = {"timeout_s": timeout_s, "deadline_s": deadline_s, "first_wait_s": first_wait_s, "max_wait_s": max_wait_s}
        for name, value in {"concurrency": concurrency, "attempts": attempts}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be >= 1, got {value}")
        for name, seconds in limits.items():
            if not seconds > 0:
                raise ValueError(f"`{name}` must be > 0 seconds, got {seconds}")
        if not model.strip():
            raise ValueError("`model` must name the model as the server calls it, got an empty string")
        self.url, self.model, self.key_env = base_url(url), model, key_env
        self.concurrency, self.attempts = concurrency, attempts
        self.timeout_s, self.deadline_s, self.first_wait_s, self.max_wait_s = timeout_s, deadline_s, first_wait_s, max_wait_s
        self._key = Key(key_env)
        try:
            import aiohttp  # noqa: F401
            import tenacity  # noqa: F401
        except ImportError as error:
            raise ImportError(f"a chat server is asked with {error.name}: pip install 'lightning-focal[http]'") from error
        self._proxy = proxy_of(self.url)  # the library's own reading of the environment takes passwords from ~/.netrc, too
        self.tally = Tally()
        self._session: aiohttp.ClientSession | None = None
        self._slots, self._pace = asyncio.Semaphore(concurrency), Pace(requests_per_minute)
        self._dice = random.Random()  # jitter leaves the global random state alone

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def complete(self, messages: Sequence[Message], **body: Any) -> ChatReply:
        """Ask for one completion.

        Args:
            messages: the chat.
            body: further parameters of the request as the server knows them (``temperature``, ``max_tokens``, ``seed``,
                ``response_format``, ...); those that are None are left out.

        Returns:
            The reply.

        Raises:
            ChatUnusable: at once, if the key is rejected (401, 403) or the model or address is unknown (404).
            ChatRefused: at once, on any other 4xx.
            ChatUnavailable: when attempts or time ran out.
        """
        return await self.ask(lambda: {"messages": messages, **body}, lambda reply: reply)

    async def ask(self, compose: Callable[[], Mapping[str, Any]], read: Callable[[ChatReply], _T]) -> _T:
        """Ask until a reply can be read.

        Args:
            compose: gives the request, anew for each try: ``messages`` and further parameters.
            read: makes of a reply what is wanted of it, or raises ``AgainError`` where that cannot be: the request is repeated.

        Raises:
            ChatError: as :meth:`complete`.
        """
        last: list[AgainError] = []
        async with self._slots:
            try:
                async with asyncio.timeout(self.deadline_s):
                    attempt = partial(self._try, compose, read, last)
                    try:  # most need one: the retrying alone would take a tenth of a request's processor time
                        return await attempt()
                    except AgainError as error:
                        return await self._retry(error, attempt)
            except (AgainError, TimeoutError):
                said = f": {last[-1]}" if last else ""
                raise ChatUnavailable(
                    f"{self.url} gave no usable reply in {max(len(last), 1)} of at most {self.attempts} tries and {self.deadline_s:g} s{said}"
                ) from None

    async def check(self) -> list[str]:
        """Find out whether a server is there and takes the key, without asking for a completion.

        Returns:
            The models it offers; empty where it has no list of them.

        Raises:
            ChatUnusable: if nobody answers, or the key is rejected.
        """
        try:
            received = await self._send("GET", f"{self.url}/models", None, min(self.timeout_s, _CHECK_S))
        except AgainError as error:
            raise ChatUnusable(f"no server answers at {self.url} ({error}); is it running?") from None
        if received.status in (401, 403):
            self._expect_key_accepted(received)
        return _model_names(received)

    async def _retry(self, failed: AgainError, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Go on after a first attempt that failed."""
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_before_delay

        first = [failed]

        async def next_attempt() -> _T:
            if first:
                raise first.pop()
            return await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(AgainError),
            stop=stop_after_attempt(self.attempts) | stop_before_delay(self.deadline_s),
            wait=self._wait,
            reraise=True,
        )
        return await retrying(next_attempt)

    async def _try(self, compose: Callable[[], Mapping[str, Any]], read: Callable[[ChatReply], _T], last: list[AgainError]) -> _T:
        try:
            await self._pace.turn()
            self.tally.requests += 1
            self.tally.retries += bool(last)
            request = {"model": self.model, **{name: value for name, value in compose().items() if value is not None}}
            request["messages"] = [dict(message) for message in request["messages"]]
            body = json.dumps(request, ensure_ascii=False).encode("utf-8", errors="replace")  # half a surrogate pair is no UTF-8
            began = time.monotonic()
            received = await self._send("POST", f"{self.url}/chat/completions", body, self.timeout_s)
            await self._expect_usable(received)
            if not 200 <= received.status < 300:
                expect_accepted(received, self._said(received))
            reply = read_reply(received)
            self.tally.reply(time.monotonic() - began, reply.prompt_tokens, reply.completion_tokens)
            return read(replace(reply, text=self._key.hidden(reply.text)))
        except AgainError as error:
            last.append(error)
            raise

    async def _send(self, method: str, address: str, body: bytes | None, seconds: float) -> Received:
        """Send a request and receive all of its response.

        Raises:
            AgainError: if nothing, too little or too much came.
        """
        import aiohttp

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **self._key.headers()}
        try:
            async with (
                asyncio.timeout(seconds),  # in all: the library would count from the last byte
                self._client().request(
                    method, address, data=body, headers=headers, allow_redirects=False, proxy=self._proxy
                ) as response,
            ):
                content, announced = bytearray(), response.content_length or 0
                while announced <= _LARGEST and (chunk := await response.content.readany()):
                    content += chunk
                    announced = max(announced, len(content))
                if announced > _LARGEST:
                    response.close()
                    raise AgainError(f"the response is longer than {_LARGEST >> 20} MiB")
                return Received(response.status, bytes(content), {k.lower(): v for k, v in response.headers.items()})
        except TimeoutError:
            raise AgainError(f"no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: what the library makes of some broken headers
            raise AgainError(f"{type(error).__name__}: {self._key.hidden(shortened(str(error)))}") from None

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, AgainError) else None
        if asked is not None:
            return asked + self._dice.uniform(0, min(1.0, self.first_wait_s))  # not all at the same moment
        longest = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(state.attempt_number - 1, 60))
        return self._dice.uniform(longest / 2, longest)

    def _client(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.concurrency + 1),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session

    def _said(self, received: Received) -> str:
        return shortened(self._key.hidden(received.text))

    async def _expect_usable(self, received: Received) -> None:
        if received.status == 401 or (received.status == 403 and not self.tally.replies):
            self._expect_key_accepted(received)
        if received.status == 403:  # the key was taken a moment ago: it is this request that the server does not want
            raise ChatRefused(f"the server refuses the request (status 403: {self._said(received)})")
        names: list[str] = []
        unknown = received.status == 404 or (received.status == 400 and _error_code(received) == "model_not_found")
        if unknown or (received.status in (400, 422) and self.model in received.text):
            names = _model_names(await self._offered())
            # some servers say in words alone that they serve another model
            unknown = unknown or (self.model not in names and not self.tally.replies)
        if unknown:
            offers = f"; it offers {', '.join(names[:10])}" if names else ""
            raise ChatUnusable(
                f"{self.url} knows no model {self.model!r}, or no chat completions "
                f"(status {received.status}: {self._said(received)}){offers}"
            )

    def _expect_key_accepted(self, received: Received) -> None:
        which = f"rejects the key in {self.key_env!r}" if self.key_env else "wants a key: name the variable that holds it"
        raise ChatUnusable(f"{self.url} {which} (status {received.status}: {self._said(received)})")

    async def _offered(self) -> Received | None:
        try:
            return await self._send("GET", f"{self.url}/models", None, min(self.timeout_s, _CHECK_S))
        except AgainError:
            return None


def _model_names(received: Received | None) -> list[str]:
    """The models a server lists; empty where it does not say."""
    try:
        return [str(entry["id"]) for entry in json.loads(received.body)["data"]] if received is not None else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _error_code(received: Received) -> Any:
    try:
        return json.loads(received.body)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
