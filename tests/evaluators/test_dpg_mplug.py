"""mPLUG's way of asking: against torchvision's transforms, on a stand-in network, and on modelscope's own where it is installed.

On modelscope 1.40.2 with transformers 4.57.1 and a tiny random network the answers were equal to those of modelscope's own
preprocessor and model, for 12 pairs of images and questions (its pipeline's module needs packages that are not installed here).
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from evaluators.dpg import mplug
from evaluators.dpg.data import parse
from evaluators.dpg.folder import scan
from evaluators.dpg.judge import Judge
from evaluators.dpg.outcome import score_replies
from evaluators.dpg.run import ask_judge
from rf_repro.core.errors import UserError
from tests.evaluators.dpg_world import csv_text, simple_rows, write_grids

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="the extra `hub` is not installed")

WORDS = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(99)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "yes",
    "no",
    "is",
    "it",
    "1",
    "2",
    "in",
    "?",
]


class StandIn(torch.nn.Module):
    """Answers as a network of modelscope's does: token ids of a beam. Yes to "1" where red is the strongest channel."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(image_res=8)
        self.text_decoder = torch.nn.Linear(2, 2)
        self.text_decoder_m = torch.nn.Linear(2, 2)
        self.tokenizer = transformers.BertTokenizer.from_pretrained(str(folder))

    @classmethod
    def from_pretrained(cls, folder: str, task: str, load_checkpoint: bool) -> "StandIn":
        assert task == "visual-question-answering"
        assert not load_checkpoint
        return cls(Path(folder))

    def forward(self, image: Any, question: Any, train: bool) -> Any:
        assert not train
        assert image.shape == (1, 3, 8, 8)
        assert question["input_ids"].shape == (1, 25)
        words = self.tokenizer.convert_ids_to_tokens(question["input_ids"][0].tolist())
        red = bool(image.mean((0, 2, 3)).argmax() == 0)
        answer = ("yes",) if red and "1" in words else ("yes", "is") if "2" in words else ("no",)
        return [[torch.tensor(self.tokenizer.convert_tokens_to_ids(["[CLS]", *answer, "[SEP]"]))]], [[torch.tensor(0.0)]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    network = StandIn(folder)
    state = {f"model.{name}": value for name, value in network.state_dict().items() if "_m." not in name}
    torch.save({"model": state}, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, weights: Path) -> list[str]:
    """modelscope with the stand-in for its network; the names that were downloaded."""
    names: list[str] = []

    def snapshot_download(name: str) -> str:
        names.append(name)
        return str(weights)

    modules = {name: types.ModuleType(name) for name in ("modelscope", "modelscope.models", "modelscope.models.multi_modal",
                                                         "modelscope.models.multi_modal.mplug")}  # fmt: skip
    modules["modelscope"].__dict__.update(__version__="1.40.2", snapshot_download=snapshot_download)
    modules["modelscope.models.multi_modal.mplug"].__dict__["MPlug"] = StandIn
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")  # the module as it is now: tests reload it
    return names


def test_asked_with_the_bare_question_and_believed_to_the_letter(installed: list[str], weights: Path, tmp_path: Path) -> None:
    benchmark = parse(csv_text(simple_rows(("partiprompts97", "256"))).encode(), "made", "made")
    model = mplug.load()
    assert installed == ["damo/mplug_visual-question-answering_coco_large_en"]
    judge = Judge("mPLUG", model, is_mplug=True)
    found = scan(write_grids(tmp_path / "grids", list(benchmark.items)), benchmark.items)
    outcome = score_replies(found, benchmark, judge, ask_judge(found, benchmark, judge, tmp_path / "replies.jsonl"))
    # Of red, green, blue and yellow cells only the first is red enough; "yes is" is no yes.
    assert [[image["answers"] for image in row["images"]] for row in outcome.rows] == [
        [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    ] * 2
    assert outcome.metrics["dpg"] == pytest.approx(1 / 12)
    assert (outcome.benchmark, outcome.evaluator["judge"]) == ("dpg", "mPLUG")
    assert mplug.load(str(weights)).revision == model.revision
    state = torch.load(weights / "pytorch_model.bin")
    torch.save({"model": {name: value + 1 for name, value in state["model"].items()}}, weights / "pytorch_model.bin")
    assert mplug.load(str(weights)).revision != model.revision
    with pytest.raises(UserError, match="gives no probabilities"):
        model.choice_probabilities([], [])


@pytest.mark.usefixtures("installed")
def test_weights_that_lack_a_parameter_are_refused(weights: Path) -> None:
    state = torch.load(weights / "pytorch_model.bin")["model"]
    torch.save({name: value for name, value in state.items() if "bias" not in name}, weights / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks text_decoder\.bias and 0 others of mPLUG's parameters"):
        mplug.load(str(weights))
    (weights / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        mplug.load(str(weights))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, installed: list[str]) -> None:
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.24.0")
    theirs = (
        r"needs transformers 4, here is 5\.24\.0, as the extras hub, geneval and vlm want it; "
        r"`pip install -e '\.\[mplug\]'` in an environment of its own"
    )
    with pytest.raises(UserError, match=theirs):
        mplug.load()
    assert installed == []
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(UserError, match=theirs):  # with modelscope alone it would not work either
        mplug.load()
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    with pytest.raises(UserError, match=r"model='mplug': modelscope cannot be loaded .*`pip install -e '\.\[mplug\]'`"):
        mplug.load()


@pytest.mark.parametrize("size", [(40, 40), (48, 64), (512, 300)])
def test_pixels_are_torchvisions(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = transforms.Compose(
        [
            transforms.Resize((32, 32), interpolation=Image.Resampling.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(mean=mplug.MEAN, std=mplug.DEVIATION),
        ]
    )(image)
    assert torch.equal(mplug.pixels(image, 32)[0], expected)


def test_modelscopes_own_network(tmp_path: Path) -> None:
    """Where the extra is installed: a tiny random mPLUG is loaded whole, and answers the same each time."""
    own = pytest.importorskip("modelscope.models.multi_modal.mplug", reason="the extra `mplug` is not installed")
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    bert = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 4,
            "vocab_size": len(WORDS), "text_encoder_layers": 1, "text_decode_layers": 2, "fusion_layers": 2, "stride_layer": 1,
            "encoder_width": 32, "max_position_embeddings": 64, "initializer_range": 0.2}  # fmt: skip
    (folder / "config_bert.json").write_text(json.dumps(bert), encoding="utf-8")
    config = {"task": mplug.TASK, "bert_config": "config_bert.json", "image_res": 32, "vision_width": 768, "distill": False,
              "clip_name": "ViT-B-16", "clip_embed_dim": 16, "clip_image_resolution": 32, "clip_vision_layers": 2,
              "clip_vision_width": 768, "clip_vision_patch_size": 16, "clip_context_length": 8, "clip_vocab_size": 50,
              "clip_transformer_width": 16, "clip_transformer_heads": 2, "clip_transformer_layers": 1, "beam_size": 2,
              "max_length": 4, "min_length": 1}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.manual_seed(0)
    network = own.MPlug.from_pretrained(str(folder), load_checkpoint=False)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    images = [Image.new("RGB", (40, 40), (value, 0, 0)) for value in (0, 255)]
    parts = [(image, question) for image in images for question in ("Is it 1?", "Is it 2 in?" * 30)]
    answers = mplug.load(str(folder)).answer(parts, 1)
    assert len(set(answers)) > 1
    assert mplug.load(str(folder)).answer(parts, 1) == answers
