"""The endpoint against a local server that is busy, slow, broken, hostile, or in order."""

import base64
import json
import math
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluators.vlm.endpoint import Endpoint
from evaluators.vlm.http import MAX_REPLY, Patience
from evaluators.vlm.protocol import Parts, SomeFailed
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json
from tests.evaluators.chat_server import ChatHandler, chat_server
from tests.waiting import SECONDS

QUICK = Patience(request=SECONDS, total=SECONDS, tries=4, first_pause=0.01, longest_pause=0.05)
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RF_REPRO_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def question_of(body: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in body["messages"][0]["content"])


def echo(handler: ChatHandler, body: dict[str, Any]) -> None:
    handler.say(f"re: {question_of(body)}")


def questions(count: int) -> list[Parts]:
    return [(f"question {i}",) for i in range(count)]


def test_images_and_words_arrive_in_their_order() -> None:
    pictures = [Image.new("RGB", (5, 3), color) for color in ("red", "blue")]
    parts: Parts = ("see ", pictures[0], " and ", pictures[1], "?")
    with chat_server(echo) as server:
        assert Endpoint("judge", server.url + "/", patience=QUICK).answer([parts], 7) == ["re: see  and ?"]
    (body,) = server.bodies
    assert server.paths == ["/v1/chat/completions"]
    assert server.keys == [None]
    (message,) = body.pop("messages")
    assert body == {"model": "judge", "temperature": 0, "max_tokens": 7}
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "text", "image_url", "text"]
    for part, picture in zip(message["content"][1::2], pictures, strict=True):
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        assert list(Image.open(BytesIO(base64.b64decode(data))).get_flattened_data()) == list(picture.get_flattened_data())


def test_answers_keep_their_order_and_requests_their_number() -> None:
    """The first question is answered when two later ones have been, beside it."""
    later = threading.Semaphore(0)

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        first = question_of(body) == "question 0"
        for _ in range(2 * first):
            later.acquire(timeout=SECONDS)
        echo(handler, body)
        later.release()

    with chat_server(act) as server:
        answers = Endpoint("m", server.url, concurrency=3, patience=QUICK).answer(questions(12), 5)
    assert answers == [f"re: question {i}" for i in range(12)]
    assert 2 <= server.most <= 3


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
        ("garbage", r"no reply in 4 tries: not a reply of this kind \(UnicodeDecodeError: "),
        ("no text", r"not a reply of this kind \(TypeError: its content is NoneType, not text\)"),
        ("dropped", r"no reply in 4 tries: RemoteDisconnected: "),
        ("half", r"not a reply of this kind \(JSONDecodeError: "),
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


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_can_mend_stops_at_once_and_says_no_key(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RF_REPRO_API_KEY", SECRET)

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        handler.reply({"error": f"you sent {handler.headers['Authorization']}"}, status)

    with (
        chat_server(act) as server,
        pytest.raises(UserError, match=f"HTTP {status}.*check the address, the model's name") as error,
    ):
        Endpoint("m", server.url, concurrency=1, patience=QUICK).answer(questions(9), 5)
    assert server.keys[0] == f"Bearer {SECRET}"
    assert len(server.bodies) < 9
    assert "[key]" in str(error.value)
    output = capfd.readouterr()
    for text in (str(error.value), repr(error.value), caplog.text, output.out, output.err):
        assert SECRET not in text


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with chat_server(echo) as server:
        model = Endpoint("m", server.url, cache=tmp_path, patience=QUICK)
        model.answer(questions(1), 5)
        assert server.keys == [f"Bearer {SECRET}"]
        monkeypatch.setenv("RF_REPRO_API_KEY", "another")
        Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5)
        assert server.keys[1:] == ["Bearer another"]
    monkeypatch.delenv("RF_REPRO_API_KEY")
    assert Endpoint("m", "http://node7:8000/v1")._client._key is None  # in the clear, to a server that has not asked
    assert Endpoint("m", "https://api.example.com/v1")._client._key == SECRET
    assert all(SECRET not in path.read_text() for path in tmp_path.rglob("*.json"))
    assert SECRET not in repr((model, model.revision, model.settings))
    monkeypatch.setenv("OPENAI_API_KEY", "sk\nX-Evil: 1")
    with pytest.raises(UserError, match="API key: has characters that cannot be sent") as error:
        Endpoint("m", "https://api.example.com/v1")
    assert "Evil" not in str(error.value)


def test_redirects_are_not_followed_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RF_REPRO_API_KEY", SECRET)
    with chat_server(echo) as thief:
        for status in (302, 307):
            with (
                chat_server(lambda handler, _, status=status: handler.raw(b"", status, Location=thief.url)) as server,
                pytest.raises(UserError, match=rf"redirects \(HTTP {status}\)"),
            ):
                Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5)
        assert not thief.bodies


@pytest.mark.parametrize("url", ["ftp://host/v1", "http:///v1", "http://me:secret@host/v1", "https://host/v1?key=secret"])
def test_unfit_addresses_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(UserError, match=r"must be http\(s\)://HOST:PORT/PATH") as error:
        Endpoint("m", url)
    assert "secret" not in str(error.value)


def test_no_server_is_a_failure_of_each_question() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SomeFailed, match="ConnectionRefusedError") as failed:
        Endpoint("m", f"http://127.0.0.1:{port}/v1", patience=replace(QUICK, tries=2)).answer(questions(2), 5)
    assert len(failed.value.reasons) == 2


def logprobs(tokens: dict[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": math.log(value), "bytes": list(token.encode())} for token, value in tokens.items()]
    return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}]}


def test_probabilities_are_the_mass_of_listed_tokens() -> None:
    tokens = {"Yes": 0.5, " yes": 0.125, "Ye": 0.1, "No": 0.0625, " ": 0.05}
    with chat_server(lambda handler, _: handler.reply(logprobs(tokens))) as server:
        model = Endpoint("m", server.url, patience=QUICK)
        rows = model.choice_probabilities(
            questions(2), [(("Yes", "yes", " yes", "Yes"), ("No", "no")), (("seventeen",), (" 4", "No"))]
        )
    assert rows == [pytest.approx([0.625, 0.0625]), pytest.approx([0.0, 0.0625])]
    for body in server.bodies:
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)


@pytest.mark.parametrize("value", [math.nan, 0.5, "0", None])
def test_probabilities_that_are_none_fail(value: Any) -> None:
    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        reply = logprobs({"Yes": 0.5})
        reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = value
        handler.reply(reply)

    with chat_server(act) as server, pytest.raises(SomeFailed, match="log-probabilities") as failed:
        Endpoint("m", server.url, patience=replace(QUICK, tries=1)).choice_probabilities(questions(1), [(("Yes",),)])
    assert failed.value.replies == [None]


def test_a_server_without_logprobs_is_an_error() -> None:
    with chat_server(echo) as server, pytest.raises(UserError, match="returns no logprobs, which this benchmark needs"):
        Endpoint("m", server.url, patience=QUICK).choice_probabilities(questions(1), [(("Yes",),)])


def test_what_was_answered_once_is_not_asked_again(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "red")
    other = picture.copy()
    other.putpixel((0, 0), (255, 0, 1))
    with chat_server(echo) as server:
        model = Endpoint("m", server.url, cache=tmp_path, patience=QUICK)
        batch: list[Parts] = [(picture, "a"), (other, "a"), (picture, "b")]
        first = model.answer(batch, 5)
        assert len(server.bodies) == 3
        assert model.answer(batch, 5) == first
        assert len(server.bodies) == 3
        model.answer(batch[:1], 6)  # another length, another request
        Endpoint("n", server.url, cache=tmp_path, patience=QUICK).answer(batch[:1], 5)
        assert len(server.bodies) == 5
    # No server is needed for what is known, wherever it was.
    assert Endpoint("m", "http://127.0.0.1:1/v1", cache=tmp_path, patience=QUICK).answer(batch, 5) == first
    path = next(path for path in tmp_path.rglob("*.json") if read_json(path) == first[0])
    path.write_text('{"torn')
    with pytest.raises(UserError, match="delete it to have it made again"):
        model.answer(batch, 5)


def test_failures_are_not_cached(tmp_path: Path) -> None:
    down = [True]

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        if down[0]:
            FAULTS["500"](handler)
        else:
            echo(handler, body)

    with chat_server(act) as server:
        model = Endpoint("m", server.url, cache=tmp_path, patience=replace(QUICK, tries=1))
        with pytest.raises(SomeFailed):
            model.answer(questions(1), 5)
        assert not list(tmp_path.rglob("*.json"))
        down[0] = False
        assert model.answer(questions(1), 5) == ["re: question 0"]


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


def test_settings_are_records() -> None:
    model = Endpoint("judge", "http://node7:8000/v1")
    assert model.revision == "openai:judge"
    assert json.loads(json.dumps(model.settings)) == model.settings
