"""GenEval's colour classifier against a plain statement of its protocol, crop by crop and text by text, on a tiny CLIP."""

import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from evaluators.colors.clip import BATCH_SIZE, PROFILES, ClipColorClassifier, Profile, build, load
from evaluators.geneval.metadata import COLORS
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256

open_clip = pytest.importorskip("open_clip", reason="the extra `geneval` is not installed")

SIZE = 32  # pixels, of the tiny model's images
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
NAMES = ("bench", "tv remote")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of the architecture `tiny-clip`, which open_clip then knows."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    model = build("tiny-clip", PROFILES["geneval-2023"])
    state = {name: value + 0.2 * torch.randn_like(value) for name, value in model.state_dict().items()}  # far from its start
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def crops(num: int, seed: int = 0) -> list[Image.Image]:
    """Coloured noise of all proportions, larger and smaller than the model's images."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 3 * SIZE, (num, 2))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8) // 4 + rng.integers(0, 190, 3, np.uint8)) for h, w in sizes]


def reference_logits(folder: Path, quick_gelu: bool, crop: Image.Image, name: str) -> list[float]:
    """The protocol with open_clip's own factory, one text and one crop at a time."""
    model = open_clip.create_model("tiny-clip", str(folder / "open_clip_model.safetensors"), force_quick_gelu=quick_gelu).eval()
    long = int(SIZE * max(crop.size) / min(crop.size))
    resized = crop.resize((SIZE, long) if crop.width < crop.height else (long, SIZE), Image.Resampling.BICUBIC)
    left, top = round((resized.width - SIZE) / 2), round((resized.height - SIZE) / 2)
    pixels = np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)), np.float32) / 255
    pixels = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    with torch.no_grad():
        image = model.encode_image(torch.tensor(pixels).permute(2, 0, 1)[None])[0]
        logits = []
        for color in COLORS:
            mean = torch.zeros(16)
            for text in (f"a photo of a {color} {name}", f"a photo of a {color}-colored {name}", f"a photo of a {color} object"):
                feature = model.encode_text(open_clip.tokenize([text]))[0]
                mean += feature / feature.norm() / 3
            logits.append(100 * float(image @ mean / (image.norm() * mean.norm())))
    return logits


@pytest.mark.parametrize("profile", PROFILES)
def test_logits_are_the_protocols(profile: str, tiny: Path) -> None:
    classifier = load(str(tiny), profile=profile, architecture="tiny-clip")
    images = crops(6)
    names = [NAMES[i % 2] for i in range(6)]
    expected = np.array([reference_logits(tiny, PROFILES[profile].quick_gelu, *pair) for pair in zip(images, names, strict=True)])
    np.testing.assert_allclose(classifier.logits(images, names), expected, atol=2e-3)
    assert classifier.classify(images, names) == [COLORS[i] for i in expected.argmax(1)]


def test_a_batch_of_several_classes_is_one_crop_at_a_time(tiny: Path) -> None:
    classifier = load(str(tiny), architecture="tiny-clip")
    images = crops(BATCH_SIZE + 6)
    names = random.Random(0).choices([*NAMES, "cow"], k=len(images))
    fresh = load(str(tiny), architecture="tiny-clip")
    alone = np.concatenate([fresh.logits([image], [name]) for image, name in zip(images, names, strict=True)])
    np.testing.assert_allclose(classifier.logits(images, names), alone, atol=1e-3)
    assert classifier.logits([], []).shape == (0, 10)
    assert classifier.classify([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        classifier.classify(images[:2], ["cow"])


def test_the_profiles_differ_and_say_so(tiny: Path) -> None:
    images = crops(4)
    both = {name: load(str(tiny), profile=name, architecture="tiny-clip") for name in PROFILES}
    first, second = (each.logits(images, ["cow"] * 4) for each in both.values())
    assert np.abs(first - second).max() > 0.1
    assert [each.activation for each in both.values()] == ["QuickGELU", "GELU"]
    assert len({each.revision for each in both.values()}) == 2
    for name, each in both.items():
        for part in (name, each.activation, "float32", file_sha256(tiny / "open_clip_model.safetensors"), open_clip.__version__):
            assert part in each.revision


def test_the_choice_of_activation_stands_whatever_the_architectures_default(tiny: Path) -> None:
    (tiny / "tiny-quick.json").write_text(json.dumps({**CONFIG, "quick_gelu": True}))
    open_clip.add_model_config(tiny / "tiny-quick.json")
    for profile in PROFILES.values():
        assert load(str(tiny), profile=profile.name, architecture="tiny-quick").activation == profile.activation


def wrap(model: torch.nn.Module, profile: Profile = PROFILES["geneval-2023"]) -> ClipColorClassifier:
    transform = open_clip.image_transform(SIZE, is_train=False)
    return ClipColorClassifier(model, open_clip.tokenize, transform, profile, name="", revision="", weights_path=Path())


def test_a_model_with_another_activation_is_refused(tiny: Path) -> None:
    model = build("tiny-clip", PROFILES["geneval-2023"])
    assert wrap(model).activation == "QuickGELU"
    with pytest.raises(ValueError, match="profile geneval-2023 needs QuickGELU, the model was built with GELU"):
        wrap(build("tiny-clip", PROFILES["unpinned-2025"]))
    model.transformer.resblocks[1].mlp.gelu = torch.nn.GELU()  # one of four blocks
    with pytest.raises(ValueError, match=r"4 activations of kinds \['GELU', 'QuickGELU'\]"):
        wrap(model)


def test_loading_says_nothing(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(str(tiny), architecture="tiny-clip").classify(crops(1), ["cow"])
    assert not caplog.records


@pytest.mark.parametrize("scale", [1, 2])
def test_elongated_crops_lose_their_ends(scale: int, tiny: Path) -> None:
    classifier = load(str(tiny), architecture="tiny-clip")
    side, edge = SIZE * scale, 2 * scale  # bicubic reaches two pixels of the result beyond its own place
    base = np.random.default_rng(1).integers(0, 256, (side, 3 * side, 3), np.uint8)
    ends, centre = base.copy(), base.copy()
    ends[:, : side - edge] = ends[:, 2 * side + edge :] = 0
    centre[:, side : 2 * side] = 0
    for turned in (False, True):
        images = [Image.fromarray(np.swapaxes(pixels, 0, 1) if turned else pixels) for pixels in (base, ends, centre)]
        first, without_ends, without_centre = classifier.logits(images, ["cow"] * 3)
        np.testing.assert_array_equal(first, without_ends)
        assert np.abs(first - without_centre).max() > 0.1


def test_a_crop_without_a_pixel_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="a crop of class cow is 0 x 4"):
        load(str(tiny), architecture="tiny-clip").classify([Image.new("RGB", (0, 4))], ["cow"])


def test_every_format_of_the_same_weights_gives_the_same_logits(tiny: Path, tmp_path: Path) -> None:
    expected = load(str(tiny), architecture="tiny-clip").logits(crops(3), ["cow"] * 3)
    model = build("tiny-clip", PROFILES["geneval-2023"])
    open_clip.load_checkpoint(model, str(tiny / "open_clip_model.safetensors"))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "open_clip_pytorch_model.bin")

    class Archive(torch.nn.Module):
        """Parameters under CLIP's names beside the three sizes, as OpenAI's files have them."""

        def __init__(self) -> None:
            super().__init__()
            for name, module in model.named_children():
                self.add_module(name, module)
            for name, parameter in model.named_parameters(recurse=False):
                self.register_parameter(name, parameter)
            for name in ("input_resolution", "context_length", "vocab_size"):
                self.register_buffer(name, torch.tensor(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logit_scale * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, its files are not
        torch.jit.trace(Archive(), torch.ones(1)).save(str(tmp_path / "ViT-L-14.pt"))
    for name in ("open_clip_pytorch_model.bin", "ViT-L-14.pt"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated")  # still the only reader of such files
            found = load(str(tmp_path / name), architecture="tiny-clip")
        np.testing.assert_array_equal(found.logits(crops(3), ["cow"] * 3), expected)
        assert found.weights_path == tmp_path / name
        assert file_sha256(tmp_path / name) in found.revision
    (tmp_path / "ViT-L-14.pt").unlink()
    assert load(str(tmp_path), architecture="tiny-clip").weights_path == tmp_path / "open_clip_pytorch_model.bin"


def test_wrong_weights_and_names_are_one_line(tiny: Path, tmp_path: Path) -> None:
    other = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": 2 * SIZE}}  # type: ignore[dict-item]
    (tiny / "tiny-large.json").write_text(json.dumps(other))
    open_clip.add_model_config(tiny / "tiny-large.json")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((tiny / "open_clip_model.safetensors").read_bytes()[:-100])
    weights = str(tiny / "open_clip_model.safetensors")
    for arguments, message in [
        ({"weights": weights, "architecture": "tiny-large"}, r"not the weights of tiny-large \(size mismatch for visual\.pos"),
        ({"weights": str(damaged)}, r"damaged\.safetensors: not the weights of tiny-clip \(.+\); give another file"),
        ({"weights": str(tmp_path)}, r"holds none of ViT-L-14\.pt, .*; name the file itself"),
        ({"weights": "laion"}, "laion: neither a file or folder, nor a name that open_clip knows for tiny-clip: none"),
        ({"weights": "laion", "architecture": "ViT-L-14"}, "knows for ViT-L-14: openai, laion400m_e31"),
        ({"weights": weights, "architecture": "tiny-huge"}, "architecture 'tiny-huge': open_clip knows none of this name"),
        ({"weights": weights, "profile": "geneval"}, "profile 'geneval': unknown; choose one of geneval-2023, unpinned-2025"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            load(**{"architecture": "tiny-clip", **arguments})
        assert "\n" not in str(raised.value)


def test_a_torchvision_of_another_build_is_one_line() -> None:
    """Where torchvision has no operators for this torch, open_clip fails in its depths; where it has them, nothing is said."""
    code = (
        f"import sys; sys.path += {sys.path}\n"  # -S leaves the site's own mends out, and its packages too
        "from evaluators.colors.clip import PROFILES, build\nfrom rf_repro.core.errors import UserError\n"
        "try: build('no such name', PROFILES['geneval-2023'])\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert "open_clip knows none of this name" in line or "which cannot be imported (" in line


def test_the_full_architecture_has_the_chosen_activation_in_all_36_blocks(tiny: Path) -> None:
    assert not open_clip.get_model_config("ViT-L-14").get("quick_gelu")  # the trap: the plain name means GELU,
    assert open_clip.get_pretrained_cfg("ViT-L-14", "openai")["quick_gelu"]  # for which these weights were not trained
    for profile in PROFILES.values():
        with torch.device("meta"):  # shapes without their 1.7 GB
            model = build("ViT-L-14", profile)
        kinds = [type(module).__name__ for name, module in model.named_modules() if name.endswith(".gelu")]
        assert kinds == [profile.activation] * 36
        assert wrap(model, profile).activation == profile.activation


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_runs_in_float16_and_agrees(tiny: Path) -> None:
    images, names = crops(8), [*NAMES] * 4
    classifier = load(str(tiny), device="cuda", architecture="tiny-clip")
    logits = classifier.logits(images, names)
    np.testing.assert_array_equal(logits, logits.astype(np.float16))
    np.testing.assert_allclose(logits, load(str(tiny), architecture="tiny-clip").logits(images, names), atol=0.5)
    assert "float16 autocast" in classifier.revision
