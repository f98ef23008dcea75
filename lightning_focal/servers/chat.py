"""A client of OpenAI-compatible chat servers: vLLM, llama.cpp, a vendor."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning_focal.servers.errors import ChatUnavailable, ChatUnusable
from lightning_focal.servers.replies import AgainError, expect_accepted, read_reply, shortened
from lightning_focal.types import Message

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

__all__ = ["ChatClient", "ChatReply"]


@dataclass(frozen=True)
class ChatReply:
    """What a server answered.

    Args:
        text: of the first choice; empty where the server gave none.
        finish_reason: ``stop``, ``length`` (cut off by the limit), ...; None where the server does not say.
        prompt_tokens: read, or None where the server does not say.
        completion_tokens: written, or None.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ChatClient:
    """Asks ``POST <url>/chat/completions``, several requests at a time, and repeats what may succeed later.

    Repeated are 408, 425, 429, 5xx, broken connections, time-outs and replies that are no chat completion: after the server's own
    ``Retry-After``, else after ``first_wait_s``, twice that, and so on up to ``max_wait_s``, with jitter. A request keeps its
    place among the ``concurrency`` while it waits: a server that is short of breath is asked less. One client, one event loop.

    The key is read from the environment at each request; it is kept in no attribute and stands in no message.

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
        self.url, self.model, self.key_env = _base_url(url), model, key_env
        self.concurrency, self.attempts = concurrency, attempts
        self.timeout_s, self.deadline_s, self.first_wait_s, self.max_wait_s = timeout_s, deadline_s, first_wait_s, max_wait_s
        self._key()
        try:
            import httpx  # noqa: F401
            import tenacity  # noqa: F401
        except ImportError as error:
            raise ImportError(f"a chat server is asked with {error.name}: pip install 'lightning-focal[http]'") from error
        self._http: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._dice = random.Random()  # jitter leaves the global random state alone

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

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
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_before_delay

        given = {name: value for name, value in body.items() if value is not None}
        request = {"model": self.model, "messages": [dict(message) for message in messages], **given}
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(AgainError),
            stop=stop_after_attempt(self.attempts) | stop_before_delay(self.deadline_s),
            wait=self._wait,
            reraise=True,
        )
        last: list[AgainError] = []
        async with self._slots:
            try:
                async with asyncio.timeout(self.deadline_s):
                    return await retrying(self._try, request, last)
            except (AgainError, TimeoutError):
                said = f": {last[-1]}" if last else ""
                raise ChatUnavailable(
                    f"{self.url} gave no reply in {max(len(last), 1)} of at most {self.attempts} tries and {self.deadline_s:g} s{said}"
                ) from None

    async def check(self) -> None:
        """Find out whether a server is there and takes the key, without asking for a completion.

        Servers without a list of models pass.

        Raises:
            ChatUnusable: if nobody answers, or the key is rejected.
        """
        import httpx

        try:
            response = await self._client().get(f"{self.url}/models", headers=self._headers(), timeout=min(self.timeout_s, 20.0))
        except httpx.HTTPError as error:
            raise ChatUnusable(f"no server answers at {self.url} ({type(error).__name__}: {error}); is it running?") from None
        if response.status_code in (401, 403):
            self._expect_key_accepted(response)

    async def _try(self, request: Mapping[str, Any], last: list[AgainError]) -> ChatReply:
        import httpx

        try:
            try:
                async with asyncio.timeout(self.timeout_s):  # httpx would count from the last byte
                    response = await self._client().post(f"{self.url}/chat/completions", json=request, headers=self._headers())
            except TimeoutError:
                raise AgainError(f"no answer within {self.timeout_s:g} s") from None
            except httpx.HTTPError as error:
                raise AgainError(f"{type(error).__name__}: {error}") from None
            if response.status_code in (401, 403):
                self._expect_key_accepted(response)
            if response.status_code == 404:
                raise ChatUnusable(
                    f"{self.url} knows no model {self.model!r}, or no chat completions (status 404: {self._said(response)})"
                    f"{await self._models()}"
                )
            expect_accepted(response, self._said(response))
            return ChatReply(**read_reply(response))
        except AgainError as error:
            last.append(error)
            raise

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, AgainError) else None
        if asked is not None:
            return asked + self._dice.uniform(0, min(1.0, self.first_wait_s))  # not all at the same moment
        longest = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(state.attempt_number - 1, 60))
        return self._dice.uniform(longest / 2, longest)

    def _client(self) -> httpx.AsyncClient:
        import httpx

        if self._http is None:
            limits = httpx.Limits(max_connections=self.concurrency + 1)
            self._http = httpx.AsyncClient(timeout=None, limits=limits)
        return self._http

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ValueError(f"`key_env` must name an environment variable that holds the key, {self.key_env!r} is not set")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the environment variable {self.key_env!r} must hold a key of plain characters; it holds others")
        return key

    def _headers(self) -> dict[str, str]:
        key = self._key()
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def _said(self, response: httpx.Response) -> str:
        """The server's own words, without the key should it repeat it."""
        key = self._key()
        text = response.text if key is None else response.text.replace(key, "***")
        return shortened(text)

    def _expect_key_accepted(self, response: httpx.Response) -> None:
        which = f"rejects the key in {self.key_env!r}" if self.key_env else "wants a key: name the variable that holds it"
        raise ChatUnusable(f"{self.url} {which} (status {response.status_code}: {self._said(response)})")

    async def _models(self) -> str:
        """What the server offers, in words; empty where it does not say."""
        import httpx

        try:
            response = await self._client().get(f"{self.url}/models", headers=self._headers(), timeout=min(self.timeout_s, 20.0))
            names = [str(entry["id"]) for entry in response.json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ""
        return f"; it offers {', '.join(names[:10])}" if names else ""


def _base_url(url: str) -> str:
    """Check the address and return it without a slash at the end, or what stands behind the API's root."""
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        raise ValueError(f"`url` must be the address of an API such as http://localhost:8000/v1, got {url!r}")
    if "@" in parts.netloc:
        raise ValueError(f"`url` must hold no user or password ({parts.hostname}): keys come from the environment")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"
