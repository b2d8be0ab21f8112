"""An endpoint's key: it goes to no one else, and nothing that is shown, logged or kept holds a piece of it."""

import base64
import html
import json
import logging
import pickle
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from evaluators.vlm.endpoint import Endpoint
from evaluators.vlm.http import MAX_ERROR
from evaluators.vlm.key import Key, is_loopback
from evaluators.vlm.protocol import SomeFailed
from rf_repro.core.errors import UserError
from tests.evaluators.chat_server import QUICK, ChatHandler, chat_server, echo, questions

SECRET = "sk-Ab/9+\"x\\y'Zq&0_very~secret-0123456789=tail"
ECHOES = {
    "plain": SECRET,
    "JSON": json.dumps(SECRET),
    "JSON of JSON": json.dumps(json.dumps({"key": SECRET})),
    "code points": "".join(f"\\u{ord(letter):04X}" for letter in SECRET),
    "slashes": SECRET.replace("/", "\\/"),
    "Python": "".join(f"\\x{ord(letter):02x}" for letter in SECRET),
    "URL": quote(SECRET, safe=""),
    "URL in lower case": quote(SECRET, safe="").lower().replace("sk-ab", "sk-Ab"),
    "URL, each letter": "".join(f"%{ord(letter):02X}" for letter in SECRET),
    "URL twice": quote(quote(SECRET, safe=""), safe=""),
    "HTML": html.escape(SECRET),
    "HTML code points": "".join(f"&#{ord(letter)};" for letter in SECRET),
    "hexadecimal": SECRET.encode().hex(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 after 1": base64.b64encode(f"x{SECRET}".encode()).decode(),
    "base64 of the header": base64.b64encode(f"Bearer {SECRET}".encode()).decode(),
    "base64 within": base64.urlsafe_b64encode(f"from:{SECRET} to: you".encode()).decode(),
    "spread": "\u200b".join(SECRET),
    "wrapped": "\n".join(SECRET[at : at + 5] for at in range(0, len(SECRET), 5)),
    "cut before its end": SECRET[:-9],
    "cut after its beginning": SECRET[9:],
    "twice": f"{SECRET} {SECRET}",
}


@pytest.fixture(autouse=True)
def _only_this_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("RF_REPRO_API_KEY", SECRET)


def told(text: str) -> list[str]:
    """Pieces of the key that a text tells, in any of its spellings."""
    points = re.sub(r"\\[ux](?:00)?([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
    spellings = [text, points, html.unescape(text), text.replace("\\", ""), unquote(unquote(text)), "".join(text.split())]
    plain = [SECRET[at : at + 8] for at in range(len(SECRET) - 7)]
    coded = [base64.b64encode(SECRET[at:].encode()).decode()[:12] for at in range(len(SECRET) - 9)]
    spread = [f"{SECRET.encode().hex()[at : at + 16]}" for at in range(0, 2 * len(SECRET) - 16, 2)]
    return [piece for piece in plain + coded + spread for one in spellings if piece in one]


@pytest.mark.parametrize("name", ECHOES)
def test_an_echo_in_any_spelling_is_taken_out_of_what_is_said_and_kept(name: str, tmp_path: Path) -> None:
    said = f"you sent {ECHOES[name]}, did you?"
    assert name == "spread" or told(said)

    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        if "question 0" in json.dumps(body):
            handler.say(said)
        else:
            handler.raw(said.encode(), 400)

    with chat_server(act) as server, pytest.raises(SomeFailed) as failed:
        Endpoint("m", server.url, concurrency=1, cache=tmp_path, patience=QUICK).answer(questions(2), 5)
    (kept,) = [path.read_text() for path in tmp_path.rglob("*.json")]
    for text in (failed.value.reasons[1], failed.value.replies[0], json.loads(kept), kept):
        assert told(text) == []
        assert "[key]" in text
    assert failed.value.replies[0].startswith("you sent ")
    assert failed.value.replies[0].endswith(", did you?")


def test_what_is_no_part_of_the_key_stays() -> None:
    key = Key(SECRET)
    for text in ("", "yes", "a secret 0123 & more %41 \\u0041 &amp; very", "x" * 5000, "tail", "sk-Ab", "é\n\u202e"):
        assert key.clean(text) == text
    assert Key("EMPTY").clean("an empty glass") == "an empty glass"
    assert Key("EMPTY").clean("Bearer EMPTY!") == "Bearer [key]!"
    assert key.clean_tree({"a": [1, None, f"<{SECRET}>"], SECRET: 2.5}) == {"a": [1, None, "<[key]>"], "[key]": 2.5}


def test_a_key_that_reading_or_an_answers_end_cuts_leaves_no_beginning() -> None:
    for size in range(4, len(SECRET)):
        text = "x" * (MAX_ERROR - size) + SECRET[:size]
        assert SECRET[:4] not in Key(SECRET).clean(text, is_cut=True)
        assert SECRET[-4:] not in Key(SECRET).clean(SECRET[-size:] + "!" * 50, is_cut=True)
    for size in range(6, len(SECRET)):
        assert SECRET[:6] not in Key(SECRET).clean(f"It is {SECRET[:size]}")


def test_it_stands_in_no_log_of_the_libraries(caplog: pytest.LogCaptureFixture) -> None:
    def act(handler: ChatHandler, body: dict[str, Any]) -> None:
        handler.send_response_only(200, f"OK {SECRET}")
        handler.send_header("X-Echo", f"{handler.headers['Authorization']}")
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    with caplog.at_level(logging.DEBUG), chat_server(act) as server, pytest.raises(SomeFailed):
        Endpoint("m", server.url, patience=QUICK).answer(questions(1), 5)
    assert "X-Echo" in caplog.text
    assert "[key]" in caplog.text
    assert told(caplog.text) == []
    assert not logging.getLogger("httpx").filters


def test_it_shows_itself_in_no_representation_and_is_not_pickled() -> None:
    model = Endpoint("m", "https://example.com/v1")
    for text in (repr(model), repr(vars(model)), repr(vars(model._client)), f"{model._client._key}"):
        assert told(text) == []
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(model._client._key)


LOOPBACK = ("localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1.", "127.1", "127.255.3.4", "[::1]",
            "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]")  # fmt: skip
ELSEWHERE = ("node7", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "127.evil", "[::2]", "[::ffff:10.0.0.1]",
             "0.0.0.0", "127x1.example", "1.127", "xn--localhost-")  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_known_in_any_spelling(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_loopback(host)
    key = Endpoint("m", f"http://{host}:8000/v1")._client._key
    assert key is not None
    assert key.value == SECRET
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    client = Endpoint("m", f"https://{host}:8000/v1")._client
    assert client._is_local


@pytest.mark.parametrize("host", ELSEWHERE)
def test_over_plain_http_no_key_leaves_the_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_loopback(host)
    with pytest.raises(UserError, match=r"^http://[^ ]*: an API key goes over https or to this machine alone; ") as error:
        Endpoint("m", f"HTTP://{host}:8000/v1")
    assert told(str(error.value)) == []
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("RF_REPRO_API_KEY")
    assert Endpoint("m", f"http://{host}:8000/v1")._client._key is None


@pytest.mark.parametrize("url", [
    "http://127.0.0.1\\@thief.example/v1", "http://thief.example\\@127.0.0.1/v1", "http://127.0.0.1@thief.example/v1",
    "http://thief.example#@127.0.0.1/v1", "http://localhost\t.thief.example/v1", "http://\nlocalhost/v1", "http:/localhost/v1",
    "http://0177.0.0.1/v1", "http://[::1/v1", "http://ⓛocalhost/v1", "//localhost/v1",
])  # fmt: skip
def test_an_address_that_readers_may_take_differently_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"address of|goes over https or to this machine alone"):
        Endpoint("m", url)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "LOCALHOST"])
def test_no_proxy_sees_a_key_for_this_machine(variable: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(echo) as proxy, chat_server(echo) as server:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "unrelated.example")
        Endpoint("m", server.url.replace("127.0.0.1", host), patience=QUICK).answer(questions(1), 5)
        assert server.keys == [f"Bearer {SECRET}"]
        assert proxy.bodies == []


def test_over_https_a_proxy_sees_a_tunnel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Proxy(ChatHandler):
        def do_CONNECT(self) -> None:
            seen.append(f"{self.requestline}\n{self.headers}")
            self.raw(f"no: {SECRET}".encode(), 502)

    with chat_server(echo) as proxy:
        proxy.RequestHandlerClass = Proxy
        monkeypatch.setenv("https_proxy", proxy.url.removesuffix("/v1").replace("://", "://me:hunter2@"))
        with pytest.raises(SomeFailed) as failed:
            Endpoint("m", "https://api.example.invalid/v1", patience=QUICK).answer(questions(1), 5)
    assert seen
    assert all("CONNECT api.example.invalid:443" in text and told(text) == [] for text in seen)
    assert told(str(failed.value)) == []
    assert "hunter2" not in str(failed.value)


def test_a_proxys_password_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("nonsense://me:hunter2@127.0.0.1:9", "socks9://me:hunter2@host", "http://me:hunter2@host:port"):
        monkeypatch.setenv("all_proxy", proxy)
        with pytest.raises(UserError, match=r"^proxy of the environment: ") as error:
            Endpoint("m", "https://example.com/v1", patience=QUICK).answer(questions(1), 5)
        assert "hunter2" not in str(error.value)


def test_the_keys_of_its_tls_are_not_written_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    assert ssl.create_default_context().keylog_filename is not None
    assert Endpoint("m", "https://example.com/v1")._client._tls.keylog_filename is None
