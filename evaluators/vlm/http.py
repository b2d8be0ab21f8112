"""JSON posted to a server that may be busy, slow, broken or hostile: tried again, without waiting or reading for ever.

Requests are coroutines: a deadline then holds for all of a request, however slowly bytes drip, and what is
cancelled has let go of its connection.
"""

import asyncio
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, stop_before_delay

from evaluators.vlm.key import Key, is_loopback
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.json_text import parse_json

MAX_REPLY = 4 << 20  # bytes; an answer has thousands
MAX_ERROR = 2000  # bytes of what a server says with an error
RETRIED = (408, 409, 425, 429)  # and all from 500 on
HOPELESS = (401, 403, 404, 405)  # whatever is asked: the key, the address or the model's name is wrong
_LOGIN = re.compile(r"//[^/@\s]*@")  # in an address
HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}


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

    def pause(self, tried: int) -> float:
        """After so many tries."""
        return min(self.longest_pause, self.first_pause * 2.0 ** (tried - 1)) * random.uniform(0.5, 1)


class _TryFailed(Exception):
    """One that another may mend; `wait`: seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Client:
    """Posts to one address.

    Args:
        key: sent as bearer token, over https or to this machine; it stands in no message and no record.

    Raises:
        UserError: the address is not one of http or https, or holds a password or a query, or the key would cross a network in
            the clear.
    """

    def __init__(self, url: str, key: Key | None, patience: Patience) -> None:
        try:
            parts = httpx.URL(url)  # the reader of whoever connects: two would disagree on some address
        except httpx.InvalidURL:
            parts = httpx.URL()
        host = parts.raw_host.decode("ascii")
        if parts.scheme not in ("http", "https") or not host or "@" in url or "?" in url or "#" in url:
            raise UserError(f"address of {host or 'the endpoint'}: must be http(s)://HOST:PORT/PATH, without password or query")
        self._is_local = is_loopback(host)
        if key is not None and parts.scheme == "http" and not self._is_local:
            raise UserError(
                f"{parts.scheme}://{host}: an API key goes over https or to this machine alone; give an https address, a tunnel "
                "to localhost (ssh -L), or unset RF_REPRO_API_KEY"
            )
        self.url, self.patience, self._key = url, patience, key
        self._tls = ssl.create_default_context()
        self._tls.keylog_filename = None  # type: ignore[assignment]  # SSLKEYLOGFILE would lay all open

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[httpx.AsyncClient]:
        """Connections for the block, through the proxies that the environment names; to this machine without any, for a proxy
        would get the key in the clear.

        Raises:
            UserError: it names one that cannot be used.
        """
        # httpx's own timeouts would start again with each byte. It follows no redirects unless told to.
        unlimited = httpx.Limits(max_connections=None)  # its caller limits them
        try:
            connections = httpx.AsyncClient(timeout=None, limits=unlimited, verify=self._tls, trust_env=not self._is_local)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UserError(f"proxy of the environment: {self._clean(str(error))}; set HTTPS_PROXY or ALL_PROXY again") from None
        with self._key.out_of_logs() if self._key else nullcontext():
            async with connections:
                yield connections

    async def post(self, connections: httpx.AsyncClient, body: bytes, check: Callable[[Any], Any]) -> Any:
        """What `check` makes of the server's reply to a JSON body.

        Args:
            check: gets the parsed reply; it raises ValueError, TypeError, KeyError or IndexError on one that is not as it must
                be, which counts as garbage and is asked again.

        Raises:
            RequestFailed: no tries or no time are left, or the server refuses this body.
            UserError: the server would refuse any.
        """
        end = time.monotonic() + self.patience.total
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryFailed),
            stop=stop_after_attempt(self.patience.tries) | stop_before_delay(self.patience.total),
            wait=self._pause,
            retry_error_callback=_give_up,
        )
        return await retrying(self._try, connections, body, check, end)

    def _pause(self, state: RetryCallState) -> float:
        return max(self.patience.pause(state.attempt_number), _failure(state).wait)

    async def _try(self, connections: httpx.AsyncClient, body: bytes, check: Callable[[Any], Any], end: float) -> Any:
        """Once. Raises _TryFailed, and as of `post`."""
        try:
            async with asyncio.timeout(min(self.patience.request, end - time.monotonic())):
                reply = await self._reply(connections, body)
            return check(self.without_key(parse_json(reply)))
        except UserError:
            raise
        except TimeoutError:
            raise _TryFailed(f"no whole reply within {self.patience.request:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            cause = _first_cause(error)
            raise _TryFailed(f"{type(cause).__name__}: {self._clean(str(cause))}") from None
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:  # JSON's, UTF-8's, and those of `check`
            raise _TryFailed(f"not a reply of this kind ({type(error).__name__}: {self._clean(str(error))})") from None

    async def _reply(self, connections: httpx.AsyncClient, body: bytes) -> bytes:
        headers = HEADERS if self._key is None else {**HEADERS, "Authorization": f"Bearer {self._key.value}"}
        async with connections.stream("POST", self.url, content=body, headers=headers) as response:
            if not response.is_success:
                said = (await _read(response, MAX_ERROR)).decode(errors="replace")
                raise self._refusal(response.status_code, said, _retry_after(response.headers))
            reply = await _read(response, MAX_REPLY)
        if len(reply) > MAX_REPLY:
            raise ValueError(f"more than {MAX_REPLY} bytes")
        return reply

    def _refusal(self, code: int, text: str, wait: float) -> Exception:
        said = f"HTTP {code} {self._clean(text)}".strip()
        if 300 <= code < 400:
            return UserError(f"{self.url}: redirects (HTTP {code}), which is not followed with a key; give its final address")
        if code in HOPELESS:
            return UserError(f"{self.url}: {said}; check the address, the model's name and the API key in the environment")
        return RequestFailed(said) if code < 500 and code not in RETRIED else _TryFailed(said, wait)

    def without_key(self, value: Any) -> Any:
        """A parsed reply, any echo of the key taken out."""
        return self._key.clean_tree(value) if self._key else value

    def _clean(self, text: str) -> str:
        """One short line without the key, or a proxy's password."""
        text = _LOGIN.sub("//[login]@", self._key.clean(text, is_cut=True) if self._key else text)
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return line if len(line) <= 200 else f"{line[:200]}..."


def _failure(state: RetryCallState) -> _TryFailed:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, _TryFailed)
    return failure


def _give_up(state: RetryCallState) -> None:
    raise RequestFailed(f"no reply in {state.attempt_number} tries: {_failure(state)}") from None


async def _read(response: httpx.Response, most: int) -> bytes:
    """The body, or a little more than `most` bytes of it: it may have no end."""
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > most:
            break
    return bytes(data)


def _first_cause(error: BaseException) -> BaseException:
    """The system's own error under those of the libraries, which say less, where there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__
    return error


def _retry_after(headers: httpx.Headers) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0
