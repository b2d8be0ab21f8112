"""An OpenAI-compatible server on this machine that behaves as it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evaluators.vlm.http import Patience
from evaluators.vlm.protocol import Parts
from tests.waiting import SECONDS

QUICK = Patience(request=SECONDS, total=SECONDS, tries=4, first_pause=0.01, longest_pause=0.05)

Act = Callable[["ChatHandler", dict[str, Any]], None]


class ChatHandler(BaseHTTPRequestHandler):
    """Lets the server's `act` reply to what it was sent."""

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, ChatServer)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.paths.append(self.path)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            server.act(self, body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has left, as it should
        finally:
            with server.lock:
                server.now -= 1

    def reply(self, value: Any, status: int = 200, **headers: str) -> None:
        self.raw(json.dumps(value).encode(), status, **headers)

    def raw(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def say(self, text: str) -> None:
        self.reply({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})

    def log_message(self, *_: Any) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """bodies, keys, paths: of the requests so far; most: requests there were at the same time."""

    daemon_threads = True

    def __init__(self, act: Act) -> None:
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.act, self.lock = act, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.now = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def chat_server(act: Act) -> Iterator[ChatServer]:
    server = ChatServer(act)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def question_of(body: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in body["messages"][0]["content"])


def echo(handler: ChatHandler, body: dict[str, Any]) -> None:
    handler.say(f"re: {question_of(body)}")


def questions(count: int) -> list[Parts]:
    return [(f"question {i}",) for i in range(count)]
