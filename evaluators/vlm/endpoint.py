"""A model behind an OpenAI-compatible server, such as vLLM's on another node."""

import asyncio
import base64
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from httpx import URL, AsyncClient, InvalidURL
from PIL import Image

from evaluators.vlm.http import Client, Patience, RequestFailed
from evaluators.vlm.key import Key, is_loopback
from evaluators.vlm.protocol import Parts, SomeFailed
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_text
from rf_repro.core.hashing import content_hash

OWN_KEY, OPENAI_KEY = "RF_REPRO_API_KEY", "OPENAI_API_KEY"
TOP = 20  # tokens whose probabilities a server lists: OpenAI's limit, and vLLM's default


class Endpoint:
    """Chat completions, one user message a question, images as PNG in data URLs, temperature 0.

    Its revision is the model's name, not the address: a server may come up on another node, and its work goes on. A name should
    therefore stand for one set of weights. Answers of a server are not promised to be the same for the same question; with
    `cache` they are.

    Args:
        name: of the model, as the server knows it.
        url: its API's root, e.g. `http://node7:8000/v1`.
        concurrency: requests at the same time.
        cache: folder of replies, by the hash of model and request; None: none is kept.
        patience: timeouts and tries.

    Raises:
        UserError: the address is unfit.
    """

    def __init__(
        self, name: str, url: str, *, concurrency: int = 8, cache: Path | None = None, patience: Patience | None = None
    ) -> None:
        self.name, self.cache, self._concurrency = name, cache, concurrency
        self._client = Client(f"{url.rstrip('/')}/chat/completions", api_key(url), patience or Patience())
        self.revision = f"openai:{name}"
        self.settings = {
            "decoding": "temperature 0",
            "images": "png",
            "choices": f"tokens that are a spelling, among the {TOP} likeliest",
        }

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """As of `VisionLanguageModel`."""
        return self._all(batch, {"max_tokens": max_new_tokens}, _content)

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        """As of `VisionLanguageModel`, as far as a server tells: of its `TOP` likeliest tokens, those that equal a spelling of
        the group. A spelling of several tokens, and what is less likely, count as 0."""
        asked = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        rows = []
        try:
            listed, failed = self._all(batch, asked, _top_tokens), None
        except SomeFailed as some:
            listed, failed = some.replies, some
        for tokens, groups in zip(listed, choices, strict=True):
            rows.append(None if tokens is None else [_mass(tokens, group) for group in groups])
        if failed is not None:
            raise SomeFailed(rows, failed.reasons)
        return [row for row in rows if row is not None]

    def _all(self, batch: Sequence[Parts], settings: Mapping[str, Any], check: Callable[[Any], Any]) -> list[Any]:
        # In a thread of its own, so that a caller may have an event loop, as notebooks do. Ctrl-C, or an error that all would
        # have, cancels what is on its way.
        with start_blocking_portal() as portal:
            found = portal.call(self._gather, batch, settings, check)
        reasons = {index: str(reply) for index, reply in enumerate(found) if isinstance(reply, RequestFailed)}
        if reasons:
            raise SomeFailed([None if index in reasons else reply for index, reply in enumerate(found)], reasons)
        return found

    async def _gather(self, batch: Sequence[Parts], settings: Mapping[str, Any], check: Callable[[Any], Any]) -> list[Any]:
        """Of each question its reply or RequestFailed, `concurrency` at a time."""
        free = asyncio.Semaphore(self._concurrency)

        async def reply(parts: Parts) -> Any:
            async with free:
                try:
                    return await self._one(connections, parts, settings, check)
                except RequestFailed as failed:
                    return failed

        try:
            async with self._client.connected() as connections, asyncio.TaskGroup() as group:
                tasks = [group.create_task(reply(parts)) for parts in batch]
        except BaseExceptionGroup as several:  # what one would have, all would have
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, connections: AsyncClient, parts: Parts, settings: Mapping[str, Any], check: Callable[[Any], Any]) -> Any:
        body = await asyncio.to_thread(self._body, parts, settings)
        path = None
        if self.cache is not None:
            key = content_hash(body)
            path = self.cache / key[:2] / f"{key}.json"
            if path.exists():
                return self._client.without_key(read_json(path))
        reply = await self._client.post(connections, json.dumps(body).encode(), check)
        if path is not None:
            write_text(path, json.dumps(reply), durable=False)
        return reply

    def _body(self, parts: Parts, settings: Mapping[str, Any]) -> dict[str, Any]:
        message = {"role": "user", "content": [_content_part(part) for part in parts]}
        return {"model": self.name, "messages": [message], "temperature": 0, **settings}


def api_key(url: str) -> Key | None:
    """From the environment: RF_REPRO_API_KEY, else OPENAI_API_KEY. The latter only over https or to this machine: it may happen
    to be set, and a server elsewhere that wants none is asked without it."""
    if own := os.environ.get(OWN_KEY, "").strip():
        return Key(own)
    try:
        parts = URL(url)
    except InvalidURL:  # refused by whoever connects
        return None
    found = os.environ.get(OPENAI_KEY, "").strip()
    return Key(found) if found and (parts.scheme == "https" or is_loopback(parts.raw_host.decode("ascii"))) else None


def _content_part(part: str | Image.Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    buffer = BytesIO()
    part.save(buffer, "PNG")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"}}


def _content(reply: Any) -> str:
    text = reply["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError(f"its content is {type(text).__name__}, not text")
    return text


def _top_tokens(reply: Any) -> dict[str, float]:
    """Token -> its probability. Raises UserError when the server does not tell any."""
    choice = reply["choices"][0]
    if choice.get("logprobs") is None:
        raise UserError("the endpoint returns no logprobs, which this benchmark needs; serve the model with vLLM, for example")
    listed = choice["logprobs"]["content"][0]["top_logprobs"]
    found: dict[str, float] = {}
    for item in listed:
        token, value = item["token"], item["logprob"]
        if not isinstance(token, str) or not isinstance(value, (int, float)) or math.isnan(value) or value > 1e-3:
            raise ValueError("not a list of tokens with log-probabilities")
        found[token] = max(found.get(token, 0.0), min(1.0, math.exp(value)))
    return found


def _mass(tokens: Mapping[str, float], spellings: Sequence[str]) -> float:
    return sum(tokens.get(spelling, 0.0) for spelling in dict.fromkeys(spellings))
