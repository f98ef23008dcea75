"""One vLLM server: what it is asked over HTTP, and how it is told of new weights."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.generation.vllm_requests import Answer, LogprobsMode
from lightning_focal.servers.address import base_url, proxy_of
from lightning_focal.servers.key import Key

__all__ = ["ServerError", "VLLMServer"]

_START = (
    "start it with VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model MODEL --enable-scale-out "
    "(on a CPU also --no-enable-chunked-prefill)"
)
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class ServerError(RuntimeError):
    """A server did not do what it was asked; the message names its address."""


class VLLMServer:
    """One server, asked from many threads.

    Args:
        url: ``http://host:port``.
        key_env: name of the environment variable that holds its ``--api-key``; None = it wants none.
        timeout_s: seconds for one try.
        attempts: times a request is tried; connections that fail, time-outs and 5xx are repeated after 1 s, 2 s, 4 s and so on.

    Raises:
        ValueError: on a URL that is none, or a key that is not there.
    """

    def __init__(self, url: str, key_env: str | None = None, timeout_s: float = 600.0, attempts: int = 4) -> None:
        self.url = base_url(url).removesuffix("/v1")
        self.timeout_s, self.attempts = timeout_s, attempts
        self.on_cpu = False
        self._key = Key(key_env)
        proxy = proxy_of(self.url)
        proxies = {} if proxy is None else {self.url.split(":")[0]: proxy}
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler(proxies)).open

    def generate(self, tokens: Sequence[int], params: Mapping[str, Any]) -> list[Answer]:
        """Answer one prompt, given as tokens, with the arguments of ``SamplingParams``.

        Raises:
            ServerError: if it is not answered.
        """
        reply = self.post("inference/v1/generate", {"token_ids": list(tokens), "sampling_params": dict(params)})
        try:
            return [_answer(choice) for choice in sorted(reply["choices"], key=lambda choice: choice["index"])]
        except (KeyError, TypeError) as error:
            raise ServerError(f"{self.url} gave no token ids with log-probabilities and weight versions ({error!r})") from None

    def check(self) -> tuple[int, LogprobsMode]:
        """Find out whether it is there and can do what is needed, and whether it is ``on_cpu``.

        Returns:
            Tokens of a prompt and its response together, at most; and what log-probabilities it reports.

        Raises:
            ServerError: naming what is missing and how to start it.
        """
        models = self._send("GET", "v1/models", None, 20.0)["data"]
        try:
            config = self._send("GET", "server_info?config_format=json", None, 120.0)["vllm_config"]
            self.label()
            # After top_k = 1 one token is left: processed log-probabilities are 0, raw ones are not.
            one = {
                "temperature": 0.5,
                "top_k": 1,
                "max_tokens": 4,
                "min_tokens": 4,
                "logprobs": 0,
                "detokenize": False,
                "seed": 0,
            }
            answer = self.generate([1], one)[0]
        except ServerError as error:
            raise ServerError(f"{self.url} is no vLLM server that takes new weights ({error}); {_START}") from None
        scheduler, device = config.get("scheduler_config", {}), config.get("device_config", {})
        self.on_cpu = device.get("device") == "cpu"
        if self.on_cpu and scheduler.get("enable_chunked_prefill"):
            raise ServerError(f"{self.url} splits long prompts, and on a CPU a seeded request then ends it; {_START}")
        mode: LogprobsMode = "processed_logprobs" if all(logp == 0 for logp in answer.logp) else "raw_logprobs"
        return int(models[0]["max_model_len"]), mode

    def label(self) -> str:
        """Return the name of the weights it has."""
        return str(self._send("GET", "weight_info", None, 60.0)["weight_version"])

    def workers(self) -> int:
        """Return the number of processes that hold its weights."""
        return int(self._send("GET", "get_world_size", None, 60.0)["world_size"])

    def reload(self, folder: str, label: str) -> None:
        """Let it read weights from a folder, forget what was computed with the old ones, and name them.

        Raises:
            ServerError: if it cannot.
        """
        self.name(f"loading {label}")
        call = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        try:
            replies = self._send("POST", "collective_rpc", call, self.timeout_s, refused=True)["results"]
        except ServerError as error:
            raise ServerError(
                f"{error}; it must see {folder} under this very path and hold the same model. Start it anew: a vLLM whose weights "
                "were half taken answers no more"
            ) from None
        workers = self.workers()
        if len(replies) != workers:
            raise ServerError(f"{self.url} has {workers} workers, of which {len(replies)} took the new weights")
        self.settle(label)

    def settle(self, label: str) -> None:
        """Empty the prefix cache and name the weights.

        Raises:
            ServerError: if the cache cannot be emptied, or the server has another name for its weights afterwards.
        """
        for attempt in range(self.attempts):
            if self.post("reset_prefix_cache")["success"]:
                break
            time.sleep(2.0**attempt)  # it answers somebody else
        else:
            raise ServerError(f"{self.url} did not empty its prefix cache: it is answering requests that are not ours")
        self.name(label)
        found = self.label()
        for attempt in range(self.attempts):
            if found != f"loading {label}":
                break
            time.sleep(2.0**attempt)  # the same weights come by another of our addresses of this server
            found = self.label()
        if found != label:
            raise ServerError(
                f"{self.url} calls its weights {found!r}, they were just named {label!r}: somebody else writes to it"
            )

    def name(self, label: str) -> None:
        """Mark every later answer with ``label``."""
        self.post("update_weight_version", {"new_version": label})

    # What vLLM's trainer-side weight transfer calls.

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let its workers join the trainer's group."""
        self.post("init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """Begin."""
        self.post("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Let its workers receive."""
        self.post("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End."""
        self.post("finish_weight_update", {"weight_version": weight_version} if weight_version is not None else None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request, again where that may help.

        Raises:
            ServerError: when it is refused, or tries ran out.
        """
        return self._send("POST", path, body, self.timeout_s)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float, refused: bool = False) -> Any:
        """Send a request; with ``refused``, a status that is no success is final."""
        data = json.dumps(body).encode() if body is not None else b"" if method == "POST" else None
        for attempt in range(1, self.attempts + 1):
            headers = {"Content-Type": "application/json", **self._key.headers()}
            request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
            try:
                with self._open(request, timeout=seconds) as response:
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                said = f"status {error.code}: {self._key.hidden(_message(error.read()))}"
                again = error.code in _AGAIN and not refused
            except (OSError, ValueError) as error:  # ValueError: no JSON, or half of it
                said = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
                again = True
            if not again or attempt == self.attempts:
                break
            time.sleep(2.0 ** (attempt - 1))
        tries = f" in {attempt} tries" if attempt > 1 else ""
        raise ServerError(f"the vLLM server at {self.url} did not answer /{path.split('?')[0]}{tries} ({said})")


def _message(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    return text if len(text) <= 500 else text[:500] + " ..."


def _answer(choice: Mapping[str, Any]) -> Answer:
    return Answer(
        tokens=tuple(choice["token_ids"]),
        logp=tuple(step["logprob"] for step in choice["logprobs"]["content"]),
        labels=tuple(dict.fromkeys(span["version"] for span in choice["weight_versions"] or ())),
        finished=str(choice["finish_reason"]),
    )
