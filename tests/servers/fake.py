"""A chat server on this machine that answers, and misbehaves when told to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer:
    """Answers ``POST /v1/chat/completions`` by ``reply(request, number)`` and remembers what it was asked.

    A reply is a text, or ``(status, headers, body)`` with a body that is sent as it is, or a callable that is given the handler.
    """

    def __init__(self, reply, models=("tiny",)):
        self.reply, self.models = reply, models
        self.requests, self.headers, self.times = [], [], []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def handler(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def send(self, status, headers, body):
                self.send_response(status)
                for name, value in {"Content-Length": len(body.encode()), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body.encode())

            def do_GET(self):
                known = fake.models is not None and self.path.endswith("/models")
                content = {"data": [{"id": name} for name in fake.models]} if known else {}
                self.send(200 if known else 404, {}, json.dumps(content))

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.lock:
                    number = len(fake.requests)
                    fake.requests.append(request)
                    fake.headers.append({name.lower(): value for name, value in self.headers.items()})
                    fake.times.append(time.monotonic())
                    fake.at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake.at_once)
                try:
                    reply = fake.reply(request, number)
                finally:
                    with fake.lock:  # before the reply is sent: whoever reads it may ask again at once
                        fake.at_once -= 1
                try:
                    if callable(reply):
                        reply(self)
                    elif isinstance(reply, tuple):
                        self.send(*reply)
                    else:
                        self.send(200, {}, completion(reply))
                except (BrokenPipeError, ConnectionResetError):
                    pass

        return Handler


def completion(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": usage})


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that went away is nobody's error."""


@contextmanager
def serving(reply, **kwargs):
    """A server that runs within the context; ``reply`` may be a list: one reply a request, the last one again and again."""
    scripted = reply if callable(reply) else lambda request, number: reply[min(number, len(reply) - 1)]
    fake = FakeServer(scripted, **kwargs)
    fake.http = _Quiet(("127.0.0.1", 0), fake.handler())
    fake.http.daemon_threads = True
    thread = threading.Thread(target=fake.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.http.shutdown()
        fake.http.server_close()
        thread.join()
