"""`--model`: each kind of model from one option, and what is refused."""

import argparse
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluators.vlm.ask import ask
from evaluators.vlm.endpoint import Endpoint
from evaluators.vlm.protocol import Query, VisionLanguageModel
from evaluators.vlm.transformers_model import TransformersVLM
from rf_repro.commands.vlm_options import add_vlm, check_vlm, load_vlm, vlm_batch_size
from rf_repro.core.errors import UserError
from rf_repro.sample.vlm import RFVisionLanguageModel
from tests.evaluators.chat_server import chat_server
from tests.evaluators.tiny_vlm import save_tiny_vlm
from tests.tiny_run import tiny_changes, write_run


def options(*arguments: str, limit: int | None = 9) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_vlm(parser, max_new_tokens=limit)
    return parser.parse_args(["--device", "cpu", *arguments])


def test_a_folder_is_a_run_or_a_transformers_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = write_run(tmp_path / "runs", "pixel_rf-continued", tiny_changes(tmp_path / "tokenizer"))
    folder = save_tiny_vlm(tmp_path / "qwen", "qwen3_vl")
    queries = [
        Query("a", lambda: (Image.new("RGB", (40, 30), "red"), "what is in the image?")),
        Query("b", lambda: (Image.new("RGB", (40, 30), "blue"), "is it red?"), (("yes", "Yes"), ("no", "No"))),
    ]
    for spec, kind in ((run.path, RFVisionLanguageModel), (folder, TransformersVLM)):
        chosen = options("--model", str(spec))
        model: VisionLanguageModel = load_vlm(chosen)
        assert isinstance(model, kind)
        store = tmp_path / f"{kind.__name__}.jsonl"
        replies = ask(queries, model, store, protocol="p", max_new_tokens=4, batch_size=vlm_batch_size(chosen))
        assert replies.answers == {"a": model.answer([queries[0].load()], 4)[0]}
        assert replies.probabilities == {"b": model.choice_probabilities([queries[1].load()], [queries[1].choices])[0]}
        assert not replies.failures
        assert vlm_batch_size(chosen) == 1


def test_an_endpoint_is_a_name_and_an_address(tmp_path: Path) -> None:
    with chat_server(lambda handler, body: handler.say(body["model"])) as server:
        chosen = options("--model", f"openai:org/judge@{server.url}", "--concurrency", "2", "--reply-cache", str(tmp_path))
        model = load_vlm(chosen)
        assert isinstance(model, Endpoint)
        assert model.answer([("hello",)], 3) == ["org/judge"]
        assert len(list(tmp_path.rglob("*.json"))) == 1
    assert vlm_batch_size(chosen) == 64
    assert vlm_batch_size(options("--model", "openai:m@http://h/v1", "--batch-size", "5")) == 5


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("openai:judge", "must be openai:NAME@http://HOST:PORT/v1"),
        ("openai:@http://host/v1", "must be openai:NAME@http://HOST:PORT/v1"),
        ("openai:judge@httpx://host", "must be openai:NAME@http://HOST:PORT/v1"),
        ("openai:judge@http://me:secret@host/v1", "must be http(s)://HOST:PORT/PATH, without password or query"),
        ("./no/such/folder/here", "must be a folder that exists"),
    ],
)
def test_other_models_are_refused(spec: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        load_vlm(options("--model", spec))
    assert problem in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_are_checked_before_anything_is_loaded() -> None:
    for option in ("--batch-size", "--concurrency", "--max-new-tokens"):
        with pytest.raises(UserError, match=f"^{option} 0: must be >= 1$"):
            check_vlm(options("--model", "nowhere", option, "0"))
    check_vlm(options("--model", "nowhere", limit=None))
    with pytest.raises(SystemExit):
        options("--model", "nowhere", "--max-new-tokens", "3", limit=None)
