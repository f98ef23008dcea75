"""One vLLM server: what it is asked over HTTP, and how it is told of new weights."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.generation.vllm_requests import Answer
from lightning_focal.servers.address import Key, base_url

__all__ = ["ServerError", "VLLMServer"]

_START = (
    "start it with VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model MODEL --enable-scale-out "
    "(on a CPU also --no-enable-chunked-prefill)"
)
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class ServerError(RuntimeError):
    """A server did not do what it was asked; the message names its address."""


class VLLMServer:
    """One server, asked from many threads; arguments as of :class:`VLLMServerGenerator`.

    Connections that fail, time-outs and 5xx are repeated after 1 s, 2 s, 4 s and so on.
    """

    def __init__(self, url: str, key_env: str | None = None, timeout_s: float = 600.0, attempts: int = 4) -> None:
        self.url = base_url(url).removesuffix("/v1")
        self.timeout_s, self.attempts = timeout_s, attempts
        self.on_cpu, self.model_config = False, dict[str, Any]()
        self._key = Key(key_env)

    def generate(self, tokens: Sequence[int], params: Mapping[str, Any]) -> list[Answer]:
        """Answer one prompt, given as tokens, with the arguments of ``SamplingParams``.

        Raises:
            ServerError: if it is not answered.
        """
        reply = self.request("inference/v1/generate", {"token_ids": list(tokens), "sampling_params": dict(params)})
        try:
            return [_answer(choice) for choice in sorted(reply["choices"], key=lambda choice: choice["index"])]
        except (KeyError, TypeError) as error:
            raise ServerError(f"{self.url} gave no token ids with log-probabilities and weight versions ({error!r})") from None

    def check(self) -> tuple[int, str]:
        """Find out whether it is ``on_cpu`` and can do what is needed; return its context and its mode of log-probabilities.

        Raises:
            ServerError: naming what is missing and how to start it.
        """
        models = self.request("v1/models", seconds=20)["data"]
        # After top_k = 1 one token is left: processed log-probabilities are 0, raw ones are not.
        one = {"temperature": 0.5, "top_k": 1, "max_tokens": 4, "min_tokens": 4, "logprobs": 0, "detokenize": False, "seed": 0}
        try:
            config = self.request("server_info?config_format=json", seconds=120)["vllm_config"]
            self.request("weight_info")
            answer = self.generate([1], one)[0]
        except ServerError as error:
            raise ServerError(f"{self.url} is no vLLM server that takes new weights ({error}); {_START}") from None
        self.model_config = config.get("model_config", {})
        self.on_cpu = config.get("device_config", {}).get("device") == "cpu"
        if self.on_cpu and config.get("scheduler_config", {}).get("enable_chunked_prefill"):
            raise ServerError(f"{self.url} splits long prompts, and on a CPU a seeded request then ends it; {_START}")
        mode = "processed_logprobs" if all(logp == 0 for logp in answer.logp) else "raw_logprobs"
        return int(models[0]["max_model_len"]), mode

    def reload(self, folder: str, label: str) -> None:
        """Let it read weights from a folder, forget what was computed with the old ones, and name them.

        Raises:
            ServerError: if it cannot, or has another name for its weights afterwards.
        """
        passing = f"loading {label}"
        self.request("update_weight_version", {"new_version": passing})
        call = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        try:
            replies = self.request("collective_rpc", call, refused=True)["results"]
        except ServerError as error:
            raise ServerError(
                f"{error}; it must see {folder} under this very path and hold the same model. Start it anew: a vLLM whose weights "
                "were half taken answers no more"
            ) from None
        workers = self.request("get_world_size")["world_size"]
        if len(replies) != workers:
            raise ServerError(f"{self.url} has {workers} workers, of which {len(replies)} took the new weights")
        for attempt in range(self.attempts):
            if self.request("reset_prefix_cache", {})["success"]:
                break
            time.sleep(2.0**attempt)  # it answers somebody else
        else:
            raise ServerError(f"{self.url} did not empty its prefix cache: it is answering requests that are not ours")
        self.request("update_weight_version", {"new_version": label})
        found = passing
        for attempt in range(self.attempts):
            found = self.request("weight_info")["weight_version"]
            if found != passing:
                break
            time.sleep(2.0**attempt)  # the same weights come by another of our addresses of this server
        if found != label:
            raise ServerError(
                f"{self.url} calls its weights {found!r}, they were just named {label!r}: somebody else writes to it"
            )

    def request(
        self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float | None = None, refused: bool = False
    ) -> Any:
        """POST ``body``, or GET where there is none, again where that may help; return what the JSON says.

        Raises:
            ServerError: when it is refused, which ``refused`` makes final for every status, or tries ran out.
        """
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, self.attempts + 1):
            headers = {"Content-Type": "application/json", **self._key.headers()}
            try:
                wanted = urllib.request.Request(f"{self.url}/{path}", data, headers)
                with urllib.request.urlopen(wanted, timeout=seconds or self.timeout_s) as response:
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                text = self._key.hidden(error.read().decode("utf-8", errors="replace"))
                said = f"status {error.code}: {text if len(text) <= 500 else text[:500] + ' ...'}"
                again = error.code in _AGAIN and not refused
            except (OSError, ValueError) as error:  # ValueError: no JSON, or half of it
                said, again = f"{type(error).__name__}: {getattr(error, 'reason', error)}", True
            if not again or attempt == self.attempts:
                break
            time.sleep(2.0 ** (attempt - 1))
        tries = f" in {attempt} tries" if attempt > 1 else ""
        raise ServerError(f"the vLLM server at {self.url} did not answer /{path.split('?')[0]}{tries} ({said})")


def _answer(choice: Mapping[str, Any]) -> Answer:
    return Answer(
        tokens=tuple(choice["token_ids"]),
        logp=tuple(step["logprob"] for step in choice["logprobs"]["content"]),
        labels=tuple(dict.fromkeys(span["version"] for span in choice["weight_versions"] or ())),
        finished=str(choice["finish_reason"]),
    )
