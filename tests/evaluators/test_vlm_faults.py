"""The endpoint against a local server that is busy, slow, broken or hostile."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evaluators.vlm.endpoint import Endpoint
from evaluators.vlm.http import MAX_REPLY, Patience
from evaluators.vlm.protocol import SomeFailed
from tests.evaluators.chat_server import QUICK, ChatHandler, chat_server, echo, question_of, questions
from tests.waiting import SECONDS


def limited(handler: ChatHandler) -> None:
    handler.reply({"error": "slow down"}, 429, Retry_After="0.2")


def drop(handler: ChatHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def half(handler: ChatHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    drop(handler)


FAULTS: dict[str, Callable[[ChatHandler], None]] = {
    "429": limited,
    "500": lambda handler: handler.raw(b"<html>oops</html>", 500),
    "503": lambda handler: handler.raw(b"", 503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
    "garbage": lambda handler: handler.raw(b"\xff\xfe not JSON"),
    "deep": lambda handler: handler.raw(b"[" * 200_000),
    "other": lambda handler: handler.reply([1, 2]),
    "empty": lambda handler: handler.reply({"choices": []}),
    "no text": lambda handler: handler.reply({"choices": [{"message": {"content": None}}]}),
    "dropped": drop,
    "half": half,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_tried_again(fault: str) -> None:
    seen: list[float] = []

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        seen.append(time.monotonic())
        if len(seen) <= 2:
            FAULTS[fault](handler)
        else:
            echo(handler, body)

    with chat_server(act) as server:
        assert Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5) == ["re: question 0"]
    assert len(seen) == 3
    if fault == "429":
        assert seen[1] - seen[0] >= 0.2  # Retry-After is obeyed


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", r"no reply in 4 tries: HTTP 500 <html>oops</html>"),
        ("garbage", r"no reply in 4 tries: not a reply of this kind \(ValueError: not UTF-8"),
        ("no text", r"not a reply of this kind \(TypeError: its content is NoneType, not text\)"),
        ("dropped", r"no reply in 4 tries: RemoteProtocolError: Server disconnected"),
        ("half", r"no reply in 4 tries: RemoteProtocolError: peer closed connection .*received 13 bytes"),
    ],
)
def test_a_fault_that_stays_fails_one_question_alone(fault: str, reason: str) -> None:
    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        if question_of(body) == "question 1":
            FAULTS[fault](handler)
        else:
            echo(handler, body)

    with chat_server(act) as server, pytest.raises(SomeFailed, match=reason) as failed:
        Endpoint("m", server.url, patience=QUICK).answer(questions(3), 5)
    assert failed.value.replies == ["re: question 0", None, "re: question 2"]
    assert list(failed.value.reasons) == [1]
    assert "\n" not in failed.value.reasons[1]
    assert len(server.bodies) == 2 + QUICK.tries


def test_a_body_that_the_server_refuses_is_not_sent_again() -> None:
    with chat_server(lambda handler, _: handler.reply({"error": {"message": "image\ntoo large"}}, 400)) as server:
        with pytest.raises(SomeFailed, match=r"^HTTP 400 .*image.*too large"):
            Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5)
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("patience", "requests"),
    [(replace(QUICK, request=0.5, tries=2), 2), (replace(QUICK, total=0.5), 1)],
    ids=["request", "total"],
)
@pytest.mark.parametrize("where", ["nothing", "headers", "body", "error body"])
def test_a_server_that_dribbles_or_sleeps_is_left_in_time(where: str, patience: Patience, requests: int) -> None:
    leave = threading.Event()

    def dribble(handler: ChatHandler, head: bytes) -> None:
        handler.wfile.write(head)
        while not leave.wait(0.05):  # each byte restarts a socket's own timeout
            handler.wfile.write(b"x")
            handler.wfile.flush()

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        heads = {
            "headers": b"HTTP/1.1 200 OK\r\nA: ",
            "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            "error body": b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n",
        }
        if where == "nothing":
            leave.wait(SECONDS)
        else:
            dribble(handler, heads[where])

    begun = time.monotonic()
    with chat_server(act) as server:
        with pytest.raises(SomeFailed, match=r"no whole reply within|HTTP 500"):
            Endpoint("m", server.url, patience=patience).answer(questions(1), 5)
        assert time.monotonic() - begun < SECONDS / 2  # the server would go on for longer
        assert len(server.bodies) == requests
        leave.set()


def test_an_endless_reply_is_not_read() -> None:
    sent = [0]

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent[0] < 50 * MAX_REPLY:
            sent[0] += handler.wfile.write(b" " * 65536)

    with chat_server(act) as server, pytest.raises(SomeFailed, match=f"more than {MAX_REPLY} bytes"):
        Endpoint("m", server.url, patience=replace(QUICK, tries=1)).answer(questions(1), 5)
    assert sent[0] < 10 * MAX_REPLY


def test_no_server_is_a_failure_of_each_question() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SomeFailed, match="ConnectionRefusedError") as failed:
        Endpoint("m", f"http://127.0.0.1:{port}/v1", patience=replace(QUICK, tries=2)).answer(questions(2), 5)
    assert len(failed.value.reasons) == 2


def test_an_interrupt_does_not_wait_for_the_server() -> None:
    """Ctrl-C while requests hang: it comes out at once, and the endpoint can be asked again."""
    hang, both = threading.Event(), threading.Semaphore(0)

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        both.release()
        hang.wait(SECONDS)
        echo(handler, body)

    def interrupt() -> None:
        for _ in range(2):
            both.acquire()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with chat_server(act) as server:
        model = Endpoint("m", server.url, concurrency=2, patience=QUICK)
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            model.answer(questions(4), 5)
        assert server.now == 2  # they hang still
        hang.set()
        assert model.answer(questions(1), 5) == ["re: question 0"]
