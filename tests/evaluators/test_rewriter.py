"""Rewriting prompts by a chat model: greedy, untouched but for the prompt, resumable, never of two kinds in one file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.rewriter.chat_model import TransformersChatModel, load_chat_model
from evaluators.rewriter.rewrite import Reply, one_line, rewrite
from evaluators.rewriter.template import DEFAULT, fill, read_template
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_jsonl, write_jsonl
from tests.evaluators.tiny_chat import save_tiny_chat

transformers = pytest.importorskip("transformers", reason="the extra `geneval` is not installed")

ROWS: list[dict[str, Any]] = [
    {
        "tag": "counting",
        "include": [{"class": "cow", "count": n}],
        "exclude": [{"class": "cow", "count": n + 1}],
        "prompt": f"{n} cows",
    }
    for n in range(1, 8)
]
ROWS.append({**ROWS[0], "tag": "colors"})  # the same prompt in another place
TEMPLATE = "Describe {prompt} in {many} words."
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersChatModel:
    return load_chat_model(str(folder), CPU, 12)


class Stopping:
    """The model, killed by the user when it is asked once too often."""

    def __init__(self, model: TransformersChatModel, batches: int) -> None:
        self.model, self.left, self.asked = model, batches, [""][:0]
        self.revision, self.settings = model.revision, model.settings

    def reply(self, texts: Sequence[str]) -> list[Reply]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += texts
        return self.model.reply(texts)


def greedy(folder: Path, text: str, limit: int) -> tuple[str, bool]:
    """The best token after another, each from a forward pass over all before it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    tokens = tokenizer(chat, add_special_tokens=False)["input_ids"]
    answer: list[int] = []
    with torch.no_grad():
        while len(answer) < limit and tokenizer.eos_token_id not in answer:
            answer.append(int(model(torch.tensor([tokens + answer])).logits[0, -1].argmax()))
    return tokenizer.decode(answer, skip_special_tokens=True), tokenizer.eos_token_id in answer


def test_answers_are_greedy_whatever_the_batch_and_the_models_own_settings(folder: Path, model: TransformersChatModel) -> None:
    saved = json.loads((folder / "generation_config.json").read_text())
    assert saved["do_sample"]
    assert saved["repetition_penalty"] > 1
    texts = [fill(DEFAULT, row["prompt"]) for row in ROWS[:3]] + ["a", "no", "one cow and two dogs"]
    replies = model.reply(texts)
    assert [(reply.text, reply.complete) for reply in replies] == [greedy(folder, text, 12) for text in texts]
    assert len({reply.text for reply in replies}) > 1
    assert {reply.complete for reply in replies} == {True, False}


def test_only_the_prompts_change_and_each_is_asked_once(model: TransformersChatModel, tmp_path: Path) -> None:
    asking, reports = Stopping(model, 99), [(0, 0)][:0]
    out = tmp_path / "long.jsonl"
    done = rewrite(ROWS, asking, TEMPLATE, out, batch_size=3, progress=lambda done, total: reports.append((done, total)))
    assert read_jsonl(out) == done.rows
    assert out.read_text() == "".join(json.dumps(row) + "\n" for row in done.rows)
    for before, after in zip(ROWS, done.rows, strict=True):
        assert list(after) == list(before)
        assert {**after, "prompt": before["prompt"]} == before
    assert asking.asked == [f"Describe {n} cows in {{many}} words." for n in range(1, 8)]
    replies = model.reply(asking.asked[:3]) + model.reply(asking.asked[3:6]) + model.reply(asking.asked[6:])
    assert [row["prompt"] for row in done.rows[:-1]] == [one_line(reply.text) for reply in replies]
    assert done.rows[-1]["prompt"] == done.rows[0]["prompt"]
    assert done.cut == sum(not reply.complete for reply in replies)
    assert reports == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("torn", ["", '{"key": "12', '{"key"'])
def test_a_killed_run_resumes_to_the_same_bytes(torn: str, model: TransformersChatModel, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    rewrite(ROWS, model, TEMPLATE, whole, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        rewrite(ROWS, Stopping(model, 2), TEMPLATE, killed, batch_size=2)
    assert not killed.exists()
    cache = tmp_path / "killed.cache.jsonl"
    lines = cache.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 4
    cache.write_text("".join(lines[:-1]) + torn)  # killed while the second batch was being written down
    resuming = Stopping(model, 99)
    rewrite(ROWS, resuming, TEMPLATE, killed, batch_size=2)
    assert resuming.asked == [fill(TEMPLATE, f"{n} cows") for n in range(3, 8)]
    assert killed.read_bytes() == whole.read_bytes()
    assert cache.read_bytes() == (tmp_path / "whole.cache.jsonl").read_bytes()
    again = Stopping(model, 0)
    rewrite(ROWS, again, TEMPLATE, killed, batch_size=3)  # nothing is left to ask


def test_rewrites_of_another_kind_are_not_mixed(folder: Path, model: TransformersChatModel, tmp_path: Path) -> None:
    out = tmp_path / "long.jsonl"
    rewrite(ROWS, model, TEMPLATE, out, batch_size=4)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"cache\.jsonl: its rewrites are by another template_sha256, .*; name another out=FILE"):
        rewrite(ROWS, model, TEMPLATE + " Now.", out, batch_size=4)
    with pytest.raises(UserError, match=r"its rewrites are by another settings, .*'max_new_tokens': 12.*'max_new_tokens': 13"):
        rewrite(ROWS, load_chat_model(str(folder), CPU, 13), TEMPLATE, out, batch_size=4)
    other = load_chat_model(str(save_tiny_chat(tmp_path / "other", seed=1)), CPU, 12)
    with pytest.raises(UserError, match="its rewrites are by another model, 'files "):
        rewrite(ROWS, other, TEMPLATE, out, batch_size=4)
    assert {path: path.read_bytes() for path in before} == before

    cache = tmp_path / "long.cache.jsonl"
    rows = read_jsonl(cache)
    write_jsonl(cache, [rows[0], rows[1], {**rows[2], "prompt": "9 cows"}])
    with pytest.raises(UserError, match=r"cache\.jsonl:3: not a rewrite of this file's model, template and settings"):
        rewrite(ROWS, model, TEMPLATE, out, batch_size=4)
    cache.unlink()
    with pytest.raises(UserError, match=r"long\.jsonl: is there already, without long\.cache\.jsonl; name a new file"):
        rewrite(ROWS, model, TEMPLATE, out, batch_size=4)


def test_the_same_weights_are_the_same_model_wherever_they_lie(
    folder: Path, model: TransformersChatModel, tmp_path: Path
) -> None:
    copied = save_tiny_chat(tmp_path / "copy")
    assert load_chat_model(str(copied), CPU, 12).revision == model.revision
    (copied / "chat_template.jinja").write_text((copied / "chat_template.jinja").read_text() + "\n")
    assert load_chat_model(str(copied), CPU, 12).revision != model.revision


def test_a_reply_becomes_one_line_without_thoughts() -> None:
    assert one_line(" A cow.\n\n It  stands. ") == "A cow. It stands."
    assert one_line("<think>\nhm\n</think>\n\nA cow.") == "A cow."
    assert one_line("<think> never ends") == ""


def test_a_model_that_says_nothing_is_an_error(model: TransformersChatModel, tmp_path: Path) -> None:
    class Silent(Stopping):
        def reply(self, texts: Sequence[str]) -> list[Reply]:
            return [Reply(" \n", True) if "2 cows" in text else Reply("Cows.", True) for text in texts]

    with pytest.raises(UserError, match="says nothing about '2 cows'"):
        rewrite(ROWS, Silent(model, 9), TEMPLATE, tmp_path / "long.jsonl", batch_size=3)
    assert not (tmp_path / "long.jsonl").exists()


def test_models_that_cannot_chat_or_be_loaded_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model='.*nowhere': must be a folder that exists, or a hub id") as raised:
        load_chat_model(str(tmp_path / "nowhere"), CPU, 8)
    assert "\n" not in str(raised.value)
    plain = save_tiny_chat(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="its tokenizer has no chat template; choose a model tuned for chat"):
        load_chat_model(str(plain), CPU, 8)


def test_templates_are_texts_with_a_place_for_the_prompt(tmp_path: Path) -> None:
    assert DEFAULT.count("{prompt}") == 1
    assert read_template(None) == DEFAULT
    path = tmp_path / "template.txt"
    path.write_text("\nDraw {prompt}, {not this}.\n")
    assert fill(read_template(path), "a cow") == "Draw a cow, {not this}."
    path.write_text("Draw.")
    with pytest.raises(UserError, match=r"template='.*template\.txt': holds no \{prompt\}"):
        read_template(path)
    with pytest.raises(UserError, match=r"absent\.txt': cannot be read"):
        read_template(tmp_path / "absent.txt")
