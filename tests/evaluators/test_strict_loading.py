"""Models of strangers: every weight is accounted for, pickles stay closed, and no code of theirs runs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rf_repro.core import hub
from rf_repro.core.errors import UserError
from tests.evaluators.tiny_chat import save_tiny_chat
from tests.evaluators.tiny_vlm import save_tiny_vlm

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TINY_WAN: dict[str, Any] = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_scales": [],
    "temperal_downsample": [False, True, True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
}  # fmt: skip


def load_chat(folder: Path) -> object:
    from evaluators.rewriter.chat_model import load_chat_model

    return load_chat_model(str(folder), CPU, 8)


def load_vlm(folder: Path) -> object:
    from evaluators.vlm.transformers_model import load_transformers_vlm

    return load_transformers_vlm(str(folder), CPU)


def load_wan(folder: Path) -> object:
    from rf_repro.config.model_schema import VAEConfig
    from rf_repro.model.vae import WanAutoencoder

    return WanAutoencoder(VAEConfig(kind="wan", pretrained=str(folder), downsample=8, latent_channels=4))


def save_wan(folder: Path) -> Path:
    diffusers = pytest.importorskip("diffusers", reason="needs the extra hub")
    torch.manual_seed(0)
    diffusers.AutoencoderKLWan(**TINY_WAN).save_pretrained(folder)
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "chat": (save_tiny_chat, load_chat),
    "vlm": (save_tiny_vlm, load_vlm),
    "wan": (save_wan, load_wan),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[Path], object]]:
    pytest.importorskip("transformers", reason="needs the extra vlm")
    save, load = KINDS[request.param]
    return save(tmp_path_factory.mktemp(request.param)), load


@pytest.fixture
def copied(model: tuple[Path, Callable[[Path], object]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(model[0], tmp_path / "copy"))


def refusal(load: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def weights_of(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def change(file: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """Edits a checkpoint; returns the name of a weight, the last, which no other is tied to."""
    weights = load_file(file)
    name = sorted(weights)[-1]
    edit(weights)
    save_file(weights, file, {"format": "pt"})
    return name


def test_as_saved_it_loads(model: tuple[Path, Callable[[Path], object]]) -> None:
    assert model[1](model[0])


def test_a_weight_that_is_missing_left_over_or_misshapen_is_named(
    model: tuple[Path, Callable[[Path], object]], copied: Path
) -> None:
    file, load = weights_of(copied), model[1]
    whole = file.read_bytes()
    name = change(file, lambda weights: weights.pop(sorted(weights)[-1]))
    assert re.search(rf"missing: \S*{re.escape(name.split('.', 1)[-1])}", refusal(load, copied))  # transformers adds a prefix
    file.write_bytes(whole)
    change(file, lambda weights: weights.update({"zz.stranger": torch.zeros(2)}))
    assert "left over: zz.stranger" in refusal(load, copied)
    file.write_bytes(whole)
    name = change(file, lambda weights: weights.update({sorted(weights)[-1]: torch.zeros(3)}))
    assert re.search(rf"of another shape: \S*{re.escape(name.split('.', 1)[-1])}", refusal(load, copied))
    file.write_bytes(whole)
    change(file, lambda weights: [weights.pop(key) for key in sorted(weights)[::2]])
    assert "missing: " in refusal(load, copied)


def test_damaged_files_are_one_line(model: tuple[Path, Callable[[Path], object]], copied: Path) -> None:
    file, load = weights_of(copied), model[1]
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-10], b"\xff" * 64, b"{}"):
        file.write_bytes(damaged)
        refusal(load, copied)
    file.write_bytes(whole)
    config = copied / "config.json"
    said = json.loads(config.read_text())
    for text in ("", "[]", "{", "[" * 3000, "null", json.dumps({**said, "model_type": "no such", "_class_name": 5})):
        config.write_text(text)
        if ("wan" in model[0].name and text in ("", "{", "[" * 3000)) or "wan" not in model[0].name:
            refusal(load, copied)


class Payload:
    """What a pickle does when it is opened."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


def test_pickles_are_never_opened(model: tuple[Path, Callable[[Path], object]], copied: Path, tmp_path: Path) -> None:
    file, load = weights_of(copied), model[1]
    file.unlink()
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin"):
        torch.save({"weight": Payload(tmp_path / "ran")}, copied / name)
    assert "are pickles, which can run code and are never opened" in refusal(load, copied)
    assert not (tmp_path / "ran").exists()


def plant(folder: Path, sentinel: Path) -> None:
    """Code in every file that a model's folder may bring, and fields that ask for it."""
    code = f"import os\nos.makedirs({str(sentinel)!r}, exist_ok=True)\n"
    classes = ("Config", "Model", "Tokenizer", "Processor", "ImageProcessor")
    code += "".join(f"class {name}:\n    pass\n" for name in classes)
    (folder / "planted.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(model, **_):\n    pass\n")
    names = {"AutoConfig": "Config", "AutoModelForCausalLM": "Model", "AutoModelForImageTextToText": "Model",
             "AutoTokenizer": ["Tokenizer", "Tokenizer"], "AutoProcessor": "Processor",
             "AutoImageProcessor": "ImageProcessor"}  # fmt: skip
    asked = {key: [f"planted.{one}" for one in value] if isinstance(value, list) else f"planted.{value}"
             for key, value in names.items()}  # fmt: skip
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            said = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**said, "auto_map": asked}))


@pytest.mark.parametrize("kind", ["chat", "vlm"])
def test_code_in_a_models_folder_never_runs_and_nobody_is_asked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the extra vlm")

    def ask(*_: object) -> str:
        raise AssertionError("the user is asked")

    monkeypatch.setattr("builtins.input", ask)
    save, load = KINDS[kind]
    folder, sentinel = save(tmp_path / "model"), tmp_path / "ran"
    plant(folder, sentinel)
    load(folder)  # transformers has the model itself: its own code is used
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "planted"}))
    assert "needs code from the model's own folder, which is never run" in refusal(load, folder)
    assert not sentinel.exists()


@pytest.mark.parametrize("kind", ["chat", "vlm"])
def test_adapters_and_kernels_of_the_hub_are_refused(kind: str, tmp_path: Path) -> None:
    save, load = KINDS[kind]
    folder = save(tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "thief/model", "peft_type": "LORA"}')
    assert "is an adapter of another model" in refusal(load, folder)
    (folder / "adapter_config.json").unlink()
    config = folder / "config.json"
    said = json.loads(config.read_text())
    for extra in ({"attn_implementation": "thief/kernel"}, {"text_config": {"_attn_implementation": {"": "thief/kernel:f"}}}):
        config.write_text(json.dumps({**said, **extra}))
        assert "code of the hub, which is never run" in refusal(load, folder)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_id_pins_a_revision_and_its_commit_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    snapshot = save_tiny_chat(tmp_path / "snapshots" / COMMIT)
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    from evaluators.rewriter.chat_model import load_chat_model

    assert load_chat_model("some/chat@v1.2", CPU, 8).revision == f"some/chat@{COMMIT}"
    assert load_chat_model("some/chat", CPU, 8).revision == f"some/chat@{COMMIT}"
    assert [one[:2] for one in asked] == [("some/chat", "v1.2"), ("some/chat", None)]
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for _, _, patterns in asked for pattern in patterns)
    (tmp_path / "some" / "chat@v1.2").mkdir(parents=True)
    assert hub.split_revision("some/chat@v1.2") == ("some/chat@v1.2", None)  # a folder of that name
    for name in ("some/chat@", "some/chat@v1 2", "some/chat@../x", "@v1", "some/chat@-rf", "some/chat\n@v1"):
        with pytest.raises(UserError, match=r"^model: must be a folder that exists, or a hub id"):
            hub.find_model(name, "model")


def test_the_commit_in_the_hubs_cache_is_told_without_a_network(tmp_path: Path) -> None:
    """What a run records of the models that it started from. The cache's place is read on import: a process of its own."""
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    for name, file, branch in (("some--model", "config.json", "main"), ("a--pipeline", "vae/config.json", "v2")):
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / COMMIT / file
        snapshot.parent.mkdir(parents=True)
        snapshot.write_text("{}")
        refs = tmp_path / "hub" / f"models--{name}" / "refs"
        refs.mkdir()
        (refs / branch).write_text(COMMIT)
    sources = ["some/model", "a/pipeline@v2", "a/pipeline", "no/such", f"some/model@{COMMIT}", str(tmp_path), ""]
    code = f"from rf_repro.core.hub import cached_commit; print([cached_commit(source) for source in {sources}])"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert ast.literal_eval(done.stdout) == [COMMIT, COMMIT, None, None, COMMIT, None, None]


# Where models may be read at all, and how.

ROOMS = {
    "evaluators/colors/clip.py",
    "evaluators/detectors/checkpoint.py",
    "evaluators/detectors/mask2former.py",
    "evaluators/dpg/mplug.py",
    "evaluators/rewriter/chat_model.py",
    "evaluators/vlm/transformers_model.py",
    "rf_repro/model/pretrained_encoder.py",
    "rf_repro/model/vae.py",
}
LOADERS = ("from_pretrained", "get_config_dict", "torch.load", "torch.jit.load", "open_clip.factory.load_state_dict", 
           "pickle.load", "pickle.loads", "joblib.load", "torch.hub.load", "numpy.load", "np.load", "pipeline")  # fmt: skip
WITHOUT_CODE = {"trust_remote_code": False, "local_files_only": True}
STRICT = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
NO_WEIGHTS = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "BertTokenizer")
OWN_LOADERS = ("AutoencoderKLWan", "Network")  # without an option for code: diffusers' class, and modelscope's, for a config


def loads(source: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(loader, its object, constant arguments) of every call that reads a model or a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            loader = next((name for name in LOADERS if called == name or called.endswith(f".{name}")), None)
            if loader:
                given = {one.arg: one.value.value for one in node.keywords if one.arg and isinstance(one.value, ast.Constant)}
                found.append((loader, called.removesuffix(loader).rstrip(".").split(".")[-1], given))
    return found


def faults(source: str) -> list[str]:
    """Calls that lack an argument which keeps code out or weights whole."""
    found = []
    for loader, of, given in loads(source):
        wanted: dict[str, Any] = {}
        if loader in ("torch.load", "open_clip.factory.load_state_dict"):
            wanted = {"weights_only": True}
        elif loader in ("np.load", "numpy.load"):
            wanted = {"allow_pickle": False}
        elif loader == "from_pretrained" and of == "Network":
            wanted = {"load_checkpoint": False}
        elif loader == "from_pretrained":
            code = {"local_files_only": True} if of in OWN_LOADERS else WITHOUT_CODE
            wanted = code if of in NO_WEIGHTS else {**code, **STRICT}
        elif loader == "get_config_dict":
            wanted = {"local_files_only": True}
        elif loader != "torch.jit.load":
            found.append(f"{loader}: never")
        found += [f"{of}.{loader}: {name}={value}" for name, value in wanted.items() if given.get(name) is not value]
    return found


def test_models_are_read_in_few_rooms_and_strictly() -> None:
    rooms = set()
    for package in ("rf_repro", "evaluators", "reports", "slurm", "ablations"):
        for path in sorted((ROOT / package).rglob("*.py")):
            source, where = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
            assert faults(source) == [], where
            if any(loader not in ("np.load", "numpy.load") for loader, _, _ in loads(source)):
                rooms.add(where)
    assert rooms == ROOMS


@pytest.mark.parametrize("source", [
    "torch.load(path)", "torch.load(path, weights_only=False)", "AutoModel.from_pretrained(x)", "pickle.load(file)",
    "AutoTokenizer.from_pretrained(x, trust_remote_code=True, local_files_only=True)", "np.load(path, allow_pickle=True)",
    "transformers.pipeline('text')", "torch.hub.load('a', 'b')", "type(model).from_pretrained(x, use_safetensors=True)",
    "AutoencoderKLWan.from_pretrained(x, use_safetensors=True, local_files_only=True)",
])  # fmt: skip
def test_the_search_finds_a_loose_way(source: str) -> None:
    assert faults(source)
