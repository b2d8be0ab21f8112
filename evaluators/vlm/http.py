"""JSON posted to a server that may be busy, slow, broken or hostile: tried again, without waiting or reading for ever."""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from rf_repro.core.errors import UserError

MAX_REPLY = 4 << 20  # bytes; an answer has thousands
RETRIED = (408, 409, 425, 429)  # and all from 500 on
HOPELESS = (401, 403, 404, 405)  # whatever is asked: the key, the address or the model's name is wrong


class RequestFailed(Exception):
    """A request had no usable reply; the message is one line without secrets."""


@dataclass(frozen=True)
class Patience:
    """How long to try. All in seconds but `tries`.

    Args:
        request: of one request, from connecting to its last byte.
        total: of all tries of a question, pauses included.
        tries: at most.
        first_pause, longest_pause: pauses double from the first to the longest, and are drawn from the upper half of that, so
            that many clients don't come back together. A server's Retry-After is obeyed instead where it is longer.
    """

    request: float = 120.0
    total: float = 600.0
    tries: int = 8
    first_pause: float = 1.0
    longest_pause: float = 60.0


class _Refused(Exception):
    """A status that is not success; `wait`: seconds that the server asks to wait."""

    def __init__(self, code: int, said: str, wait: float) -> None:
        super().__init__(code)
        self.code, self.said, self.wait = code, said, wait


class Client:
    """Posts to one address.

    Args:
        key: sent as bearer token; it stands in no message and no record.

    Raises:
        UserError: the address is not one of http or https, or holds a password or a query, or the key cannot be sent.
    """

    def __init__(self, url: str, key: str | None, patience: Patience) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            host = parts.hostname or ""
            raise UserError(f"address of {host or 'the endpoint'}: must be http(s)://HOST:PORT/PATH, without password or query")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError("API key: has characters that cannot be sent; set the environment variable again")
        self.url, self.patience = url, patience
        self._key = key
        self._stop = threading.Event()
        self._live: set[_Watch] = set()
        self._opener = urllib.request.build_opener(_NoRedirects, _HTTP, _HTTPS)

    def stop(self) -> None:
        """Ends all requests and pauses of other threads, which then raise RequestFailed."""
        self._stop.set()
        for watch in list(self._live):
            watch.cut()

    def resume(self) -> None:
        """Undoes `stop`."""
        self._stop.clear()

    def post(self, body: bytes, check: Callable[[Any], Any]) -> Any:
        """What `check` makes of the server's reply to a JSON body.

        Args:
            check: gets the parsed reply; it raises ValueError, TypeError, KeyError or IndexError on one that is not as it must
                be, which counts as garbage and is asked again.

        Raises:
            RequestFailed: no tries or no time are left, or the server refuses this body.
            UserError: the server would refuse any.
        """
        begun, last = time.monotonic(), "no try fitted in the time"
        for number in range(1, self.patience.tries + 1):
            left = self.patience.total - (time.monotonic() - begun)
            if left <= 0:
                break
            wait = 0.0
            try:
                return check(json.loads(self._once(body, min(self.patience.request, left))))
            except _Refused as refused:
                last, wait = self._worth_another_try(refused), refused.wait
            except UserError:
                raise
            except TimeoutError:
                last = f"no whole reply within {self.patience.request:g} s"
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                last = f"{type(reason).__name__}: {self._clean(str(reason))}"
            except (
                ValueError,
                TypeError,
                KeyError,
                IndexError,
                RecursionError,
            ) as error:  # JSON's, UTF-8's, and those of `check`
                last = f"not a reply of this kind ({type(error).__name__}: {self._clean(str(error))})"
            if self._stop.is_set():
                raise RequestFailed("stopped")
            pause = min(self.patience.longest_pause, self.patience.first_pause * 2 ** (number - 1)) * random.uniform(0.5, 1)
            pause = max(pause, wait)
            if number == self.patience.tries or time.monotonic() - begun + pause > self.patience.total:
                break
            if self._stop.wait(pause):
                raise RequestFailed("stopped")
        raise RequestFailed(f"no reply in {number} tries: {last}")

    def _worth_another_try(self, refused: "_Refused") -> str:
        """Why the server refused, where it may not do so again."""
        code, said = refused.code, f"HTTP {refused.code} {self._clean(refused.said)}".strip()
        if 300 <= code < 400:
            raise UserError(f"{self.url}: redirects (HTTP {code}), which is not followed with a key; give its final address")
        if code in HOPELESS:
            raise UserError(f"{self.url}: {said}; check the address, the model's name and the API key in the environment")
        if code < 500 and code not in RETRIED:
            raise RequestFailed(said)
        return said

    def _once(self, body: bytes, seconds: float) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        with _Watch(seconds) as watch:
            self._live.add(watch)
            try:
                if self._stop.is_set():
                    raise RequestFailed("stopped")
                with self._opener.open(request, timeout=seconds) as response:
                    reply = response.read(MAX_REPLY + 1)  # not the whole: it may have no end
            except urllib.error.HTTPError as error:
                with error, contextlib.suppress(OSError, http.client.HTTPException):
                    raise _Refused(error.code, error.read(2000).decode(errors="replace"), _retry_after(error.headers)) from None
                raise _Refused(error.code, "", _retry_after(error.headers)) from None
            except Exception:  # of any kind where the watch closed the connection under it; all others go on
                if watch.ran_out:
                    raise TimeoutError from None
                raise
            finally:
                self._live.discard(watch)
            if watch.ran_out:
                raise TimeoutError
        if len(reply) > MAX_REPLY:
            raise ValueError(f"more than {MAX_REPLY} bytes")
        return reply

    def _clean(self, text: str) -> str:
        """One short line without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return line if len(line) <= 200 else f"{line[:200]}..."


def _retry_after(headers: Message) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0


class _Watch:
    """Shuts the connection that this thread opens when its time is over. Sockets' own timeouts restart with each byte."""

    current = threading.local()

    def __init__(self, seconds: float) -> None:
        self.ran_out = self._is_cut = False
        self._connection: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._run_out)
        self._timer.daemon = True

    def __enter__(self) -> "_Watch":
        self.current.watch = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.current.watch = None

    def sees(self, connection: socket.socket) -> None:
        self._connection = connection
        if self._is_cut:
            self.cut()

    def _run_out(self) -> None:
        self.ran_out = True
        self.cut()

    def cut(self) -> None:
        self._is_cut = True
        if self._connection is not None:
            with contextlib.suppress(OSError):  # it has ended already
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)  # TLS's own would wait for the other side


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever it is sent."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _Watch.current.watch.sees(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _Watch.current.watch.sees(self.sock)


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)
