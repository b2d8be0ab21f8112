"""The endpoint: what it sends, with which key, what it reads, and what it asks once only."""

import asyncio
import base64
import json
import math
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluators.vlm.endpoint import Endpoint
from evaluators.vlm.protocol import Parts, SomeFailed
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json
from tests.evaluators.chat_server import QUICK, ChatHandler, chat_server, echo, question_of, questions
from tests.waiting import SECONDS

SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RF_REPRO_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


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


@pytest.mark.parametrize("padding", [0, 1, 1980, 1990, 1996, 2000, 5000])
def test_an_echoed_key_is_taken_out_before_anything_is_cut_or_kept(
    padding: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RF_REPRO_API_KEY", SECRET)

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        text = " " * padding + f"you sent {handler.headers['Authorization']}"
        if question_of(body) == "question 0":
            handler.say(text)
        else:  # in pieces, so that reading may end within the key
            handler.send_response(400)
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            for start in range(0, len(text), 10):
                handler.wfile.write(text[start : start + 10].encode())
                handler.wfile.flush()

    with chat_server(act) as server, pytest.raises(SomeFailed) as failed:
        Endpoint("m", server.url, concurrency=1, cache=tmp_path, patience=QUICK).answer(questions(2), 5)
    for text in (str(failed.value), *failed.value.reasons.values(), *map(str, failed.value.replies)):
        assert SECRET[:6] not in text
    kept = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert kept
    assert all("[key]" in text and SECRET[:6] not in text for text in kept)


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
    key = Endpoint("m", "https://api.example.com/v1")._client._key
    assert key is not None
    assert key.value == SECRET
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

    with chat_server(act) as server, pytest.raises(SomeFailed, match=r"log-probabilities|NaN is not a number") as failed:
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
            handler.raw(b"<html>oops</html>", 500)
        else:
            echo(handler, body)

    with chat_server(act) as server:
        model = Endpoint("m", server.url, cache=tmp_path, patience=replace(QUICK, tries=1))
        with pytest.raises(SomeFailed):
            model.answer(questions(1), 5)
        assert not list(tmp_path.rglob("*.json"))
        down[0] = False
        assert model.answer(questions(1), 5) == ["re: question 0"]


def test_settings_are_records() -> None:
    model = Endpoint("judge", "http://node7:8000/v1")
    assert model.revision == "openai:judge"
    assert json.loads(json.dumps(model.settings)) == model.settings


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_proxies_of_the_environment_are_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(echo) as proxy:
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert Endpoint("m", "http://node7.invalid:8000/v1", patience=QUICK).answer(questions(1), 5) == ["re: question 0"]
        assert proxy.paths == ["http://node7.invalid:8000/v1/chat/completions"]
        with chat_server(echo) as server:  # on this machine: a proxy would see the key
            monkeypatch.setenv("OPENAI_API_KEY", SECRET)
            Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5)
            assert server.keys == [f"Bearer {SECRET}"]
        assert len(proxy.bodies) == 1
        monkeypatch.setenv("no_proxy", "node7.invalid")
        with pytest.raises(SomeFailed):
            Endpoint("m", "http://node7.invalid:8000/v1", patience=replace(QUICK, tries=1)).answer(questions(1), 5)
        assert len(proxy.bodies) == 1


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_one_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(UserError, match=r"^proxy of the environment: .*; set HTTPS_PROXY or ALL_PROXY again$"):
        Endpoint("m", "http://node7:8000/v1", patience=QUICK).answer(questions(1), 5)


def test_questions_are_asked_where_an_event_loop_runs() -> None:
    """As in a notebook."""

    async def cell() -> list[str]:
        return Endpoint("m", server.url, patience=QUICK).answer(questions(2), 5)

    with chat_server(echo) as server:
        assert asyncio.run(cell()) == ["re: question 0", "re: question 1"]


def test_nothing_of_the_users_netrc_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with chat_server(echo) as server:
        Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5)
    assert server.keys == [None]
