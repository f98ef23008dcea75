"""A judge's server on this machine that knows the right verdicts, and misbehaves in the way it is told to.

The rule it judges by is written in the criteria themselves: "Says WORD." is met by a response with that word, "Counts WORD, from 0 to 9."
is graded by how often it stands there. What it sends while it misbehaves says the opposite, so a reader that takes anything from a
broken reply is caught.

    python benchmarks/faulty_server.py --latency 0.05        # well-behaved; writes its address and serves until it is ended
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import threading
from contextlib import contextmanager

FLIPPED = {"met": "not_met", "not_met": "met"}
_SECTION = r"<{0}-([0-9a-f]+)>\n(.*)\n</{0}-\1>"


# -- what is asked, and the right answer -------------------------------------------------------------------------------------


def asked(prompt):
    """The response under judgement, and the criteria with their ids, as they stand in the default prompt."""
    nonce, response = re.search(_SECTION.format("response"), prompt, re.DOTALL).groups()
    after = prompt.rsplit(f"</response-{nonce}>", 1)[1]
    return response, re.findall(rf"^(\d+-{nonce}): (.*)$", after, re.MULTILINE)


def truth(criterion, response):
    """``(verdict, value)`` of a criterion's words."""
    rule = re.search(r"(?:Says|Counts) (\w+)", criterion)
    if rule is None:  # somebody else's criterion
        return ("graded", float(re.search(r"a number from (\S+)", criterion)[1])) if "(graded" in criterion else ("not_met", None)
    word = rule[1]
    count = response.split().count(word)
    if "Counts" in criterion:
        return "graded", min(count, 9)
    return ("met" if count else "not_met"), None


def entries(prompt, flipped=False):
    response, criteria = asked(prompt)
    made = []
    for id_, words in criteria:
        verdict, value = truth(words, response)
        if flipped:
            verdict, value = FLIPPED.get(verdict, verdict), None if value is None else 9 - value
        made.append({"id": id_, "verdict": verdict, "value": value, "reason": "as it is"})
    return made


def verdicts(made):
    return json.dumps({"verdicts": made})


def completion(text, finish_reason="stop", **more):
    message = {"role": "assistant", "content": text, **more}
    usage = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": usage}).encode()


def http(status, body, **headers):
    lines = {
        "Content-Type": "application/json",
        "Content-Length": len(body),
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + body


# -- ways to misbehave: each is handed the exchange, and what it sends holds flipped verdicts wherever that must not count ------------


class Exchange:
    """One request and the way back."""

    def __init__(self, writer, request, number):
        self.writer, self.request, self.number = writer, request, number
        self.prompt = request["messages"][-1]["content"]

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def text(self, made):
        return http(200, completion(verdicts(made)))

    @property
    def right(self):
        return entries(self.prompt)

    @property
    def wrong(self):
        return entries(self.prompt, flipped=True)


def status(code, **headers):
    async def send(exchange):
        await exchange.send(http(code, completion(verdicts(exchange.wrong)), **headers))

    return send


def wording(make, finish_reason="stop"):
    """A reply of status 200 whose text is made of the right and the flipped entries."""

    async def send(exchange):
        await exchange.send(http(200, completion(make(exchange.right, exchange.wrong), finish_reason)))

    return send


def each(change):
    """Every entry changed."""
    return wording(lambda right, wrong: verdicts([{**entry, **change(entry, i)} for i, entry in enumerate(wrong)]))


async def reset(exchange):
    reply = exchange.text(exchange.wrong)
    await exchange.send(reply[: len(reply) - 10])
    exchange.writer.transport.abort()


async def hang(exchange):
    await asyncio.sleep(3)


async def drip(exchange):
    for byte in exchange.text(exchange.wrong):
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0.05)


async def no_body(exchange):
    await exchange.send(http(200, b""))


async def html(exchange):
    await exchange.send(http(200, b"<!doctype html><html><body>verdict: met</body></html>", Content_Type="text/html"))


async def huge(exchange):
    made = exchange.wrong
    made[0]["reason"] = "x" * (10 << 20)
    await exchange.send(exchange.text(made))


def wrong_length(by):
    """Content-Length that is off by so many bytes."""

    async def send(exchange):
        body = completion(verdicts(exchange.wrong))
        await exchange.send(http(200, body, Content_Length=len(body) + by))
        exchange.writer.close()

    return send


async def no_utf8(exchange):
    await exchange.send(http(200, completion(verdicts(exchange.wrong)).replace(b"as it is", b"as \xff\xfe is")))


def fenced(right, wrong):
    return f"```json\n{verdicts(right)}\n```"


def chatty(right, wrong):
    return f"Here are my verdicts for {len(right)} criteria.\n\n{verdicts(right)}\n\nAll criteria are met? {{no}}"


def extra(right, wrong):
    others = [{**entry, "id": f"{i}-{'0' * 12}"} for i, entry in enumerate(wrong, 1)] + [{**wrong[0], "id": "overall"}]
    return verdicts([*others, *right])


def duplicates(right, wrong):
    return verdicts([entry for pair in zip(right, wrong, strict=True) for entry in pair])


def drafted(before, between, cut=False):
    """A draft of the flipped entries, and behind ``between`` the right ones; nothing behind it where the reply is cut off."""
    behind = "" if cut else "{right}"
    make = f"{before}{{wrong}}{between}{behind}"
    return wording(
        lambda right, wrong: make.replace("{wrong}", verdicts(wrong)).replace("{right}", verdicts(right)),
        "length" if cut else "stop",
    )


def instead(finish_reason="stop", **fields):
    """The flipped verdicts in other fields of the message than its content, which is null."""

    async def send(exchange):
        said = verdicts(exchange.wrong)
        call = [{"id": "1", "type": "function", "function": {"name": "submit", "arguments": said}}]
        message = {name: call if name == "tool_calls" else value.format(said) for name, value in fields.items()}
        await exchange.send(http(200, completion(None, finish_reason, **message)))

    return send


def typed(value):
    """Every verdict of another type or spelling."""
    return each(lambda entry, i: {"verdict": value})


WORDS = {"met": "erfüllt", "not_met": "nicht erfüllt", "graded": "benotet"}


async def down(exchange):
    """Ends every connection and listens no more; see :meth:`FaultyServer.go_down`."""
    exchange.writer.transport.abort()


FAULTS = {
    "429 with Retry-After": status(429, Retry_After="0.2"),
    "429 without Retry-After": status(429),
    "status 500": status(500),
    "status 502": status(502),
    "status 503": status(503),
    "connection refused": down,
    "reset in mid-body": reset,
    "time-out": hang,
    "slow drip": drip,
    "empty body": no_body,
    "HTML": html,
    "truncated JSON": wording(lambda right, wrong: verdicts(wrong)[:-15]),
    "JSON with extra text": wording(chatty),
    "code-fenced JSON": wording(fenced),
    "missing criteria": wording(lambda right, wrong: verdicts(right[1:] if len(right) > 1 else [])),
    "extra criteria": wording(extra),
    "duplicate criteria": wording(duplicates),
    'wrong type: "yes"': typed("yes"),
    "wrong type: 1": typed(1),
    'wrong type: "true"': typed("true"),
    "wrong type: true": typed(True),
    'wrong type: ["met"]': typed(["met"]),
    "wrong type: null": typed(None),
    'wrong type: a value "7"': each(lambda entry, i: {"verdict": "graded", "value": "7"}),
    "wrong type: a list in place of the object": wording(lambda right, wrong: json.dumps(wrong)),
    "values out of range": each(lambda entry, i: {"verdict": "graded", "value": (-1, 10, 1e308)[i % 3]}),
    "wrong language": each(lambda entry, i: {"verdict": WORDS[entry["verdict"]]}),
    "10 MB body": huge,
    "wrong content length: too long": wrong_length(10),
    "wrong content length: too short": wrong_length(-10),
    "invalid UTF-8": no_utf8,
    "server dies in mid-run and returns": down,
    "draft in a thought": drafted("<think>\n", "\nOr not?\n</think>\n\n"),
    "draft in a thought that the prompt opened": drafted("First: ", "\nOr not?\n</think>\n\n"),
    "draft in [THINK]": drafted("[THINK]", "Or not?[/THINK]"),
    "draft in an analysis channel": drafted(
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    "a mark of a thought in a reason": wording(
        lambda right, wrong: verdicts([{**entry, "reason": "it writes </think> and <think> alone"} for entry in right])
    ),
    "a line break in a reason": wording(lambda right, wrong: verdicts(right).replace("as it is", "as\nit is")),
    "draft followed by another": drafted("A draft: ", "\nOr rather:\n"),
    "draft, then cut off": drafted("A draft: ", "\nWait, let me look at", cut=True),
    "thought cut off": drafted("<think>", " Wait,", cut=True),
    "thought that never ends": wording(lambda right, wrong: f"<think>{verdicts(wrong)}"),
    "analysis channel cut off": drafted("<|channel|>analysis<|message|>", " Hm,", cut=True),
    "empty content": instead(),
    "`reasoning_content` alone": instead(reasoning_content="{}"),
    "`reasoning` alone": instead(reasoning="{}"),
    "refusal": instead(refusal="I cannot say {}"),
    "content filter": instead("content_filter"),
    "tool call": instead("tool_calls", tool_calls=""),
    "key rejected": status(401),
    "model unknown": status(404),
}
HARMLESS = (
    "JSON with extra text",
    "code-fenced JSON",
    "extra criteria",
    "draft in a thought",
    "draft in a thought that the prompt opened",
    "draft in [THINK]",
    "draft in an analysis channel",
    "a mark of a thought in a reason",
    "a line break in a reason",
)
"""What is understood all the same."""
AT_ONCE = {"key rejected": "rejects the key", "model unknown": "knows no model"}
"""What ends the run, and how it is said."""


# -- the server ------------------------------------------------------------------------------------------------------------


class FaultyServer:
    """Serves in a thread of its own.

    Args:
        fault: what a misbehaving answer is; None = it always behaves. A function of an :class:`Exchange`.
        when: says by the exchange whether to misbehave; by default the first time that a response is seen.
        reply: in place of the right verdicts: a function from the prompt to the text of the reply.
        latency: seconds before each reply.
    """

    def __init__(self, fault=None, when=None, reply=None, latency=0.0):
        self.fault, self.latency = fault, latency
        self.reply = reply or (lambda prompt: verdicts(entries(prompt)))
        self.seen, self.requests, self.headers, self.port = set(), [], [], 0
        self.when = when or self.first_time
        self.writers, self.server = set(), None
        self.at_once = self.most_at_once = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def first_time(self, exchange):
        response = asked(exchange.prompt)[0]
        new = response not in self.seen
        self.seen.add(response)
        return new

    async def handle(self, reader, writer):
        self.writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if head.startswith("GET"):
                    writer.write(http(200, json.dumps({"data": [{"id": "judge"}]}).encode()))
                    continue
                self.requests.append(request := json.loads(body))
                self.headers.append(headers)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    if self.latency:
                        await asyncio.sleep(self.latency)
                    exchange = Exchange(writer, request, len(self.requests))
                    if self.fault is not None and self.when(exchange):
                        await self.fault(exchange)
                    else:
                        await exchange.send(http(200, completion(self.reply(exchange.prompt))))
                finally:
                    self.at_once -= 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, RuntimeError):
            pass  # whoever asked has gone, or the server goes
        finally:
            self.writers.discard(writer)
            writer.close()

    async def listen(self):
        self.server = await asyncio.start_server(self.handle, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self.server.sockets[0].getsockname()[1]

    async def hush(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()

    def go_down(self, seconds=None):
        """Refuse connections, and be back after so many seconds; None = for good."""

        async def pause():
            await self.hush()
            if seconds is not None:
                await asyncio.sleep(seconds)
                await self.listen()

        asyncio.run_coroutine_threadsafe(pause(), self.loop)

    def start(self):
        ready = threading.Event()

        async def live():
            self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
            await self.listen()
            ready.set()
            await self.over.wait()
            await self.hush()

        self.thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
        self.thread.start()
        ready.wait()

    def stop(self):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join()


@contextmanager
def serving(fault=None, **options):
    """A server that runs within the context."""
    server = FaultyServer(FAULTS.get(fault, fault) if isinstance(fault, str) else fault, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description="A judge's server for benchmarks; writes its port and serves.")
    parser.add_argument("--latency", type=float, default=0.0)
    options = parser.parse_args()

    async def serve():
        server = FaultyServer(latency=options.latency)
        await server.listen()
        print(server.url, flush=True)
        await server.server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
