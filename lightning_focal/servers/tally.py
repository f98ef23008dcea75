"""What was asked of a server, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass
class Tally:
    """Counts of one client, from when it was made.

    Args:
        requests: sent, repetitions included.
        retries: those of them that repeat one.
        replies: chat completions that came back.
        prompt_tokens: read by the model, as the server says.
        completion_tokens: written by the model, as the server says.
        seconds: the sum over replies of the time from sending to the last byte.
        slowest: the longest of these times.

    >>> tally = Tally()
    >>> tally.reply(0.5, 100, 20), tally.reply(1.5, None, None)
    (None, None)
    >>> tally.replies, tally.prompt_tokens, tally.latency_s
    (2, 100, 1.0)
    """

    requests: int = 0
    retries: int = 0
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    slowest: float = float("nan")

    def reply(self, seconds: float, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Count a chat completion that took ``seconds``; None = the server does not say how many tokens."""
        self.replies += 1
        self.prompt_tokens += prompt_tokens or 0
        self.completion_tokens += completion_tokens or 0
        self.seconds += seconds
        self.slowest = seconds if self.replies == 1 else max(self.slowest, seconds)

    @property
    def latency_s(self) -> float:
        """Mean time of a reply in seconds, NaN without any."""
        return self.seconds / self.replies if self.replies else float("nan")
