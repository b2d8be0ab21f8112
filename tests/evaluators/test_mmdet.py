"""mmdet's own results are the measure: of the detector behind our pixels, and of the network converted for `transformers`.

Random weights in the real structure: whatever is misplaced, transposed or left out shows in every score.
"""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from evaluators.detection import Detections
from evaluators.detectors import mask2former
from evaluators.detectors.checkpoint import read_checkpoint
from evaluators.detectors.coco import COCO_NAMES, OBJECT_NAMES
from evaluators.detectors.instances import find_instances
from evaluators.detectors.openmmlab import convert, convert_file, main
from evaluators.detectors.pixels import Frame
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from tests.evaluators.tiny_mask2former import agreement, photograph, randomize, tiny_config

pytest.importorskip("mmdet", reason="needs the extra mmdet", exc_type=ImportError)
from evaluators.detectors import mmdet as official

pytestmark = [pytest.mark.mmdet, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # mmdet's own
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """(mmdet config, checkpoint, weights) of a tiny Mask2Former with random weights."""
    folder = tmp_path_factory.mktemp("mmdet")
    official._import_mmdet()
    config = tiny_config(folder)
    state = randomize(official._build(config), seed=0)
    torch.save({"state_dict": state, "meta": {"CLASSES": COCO_NAMES}}, folder / "tiny.pth")
    return config, folder / "tiny.pth", state


@pytest.fixture(scope="module")
def detector(tiny: tuple[Path, Path, Any]) -> official.MMDetDetector:
    return official.load(tiny[1], config=tiny[0])


@pytest.fixture(scope="module")
def converted(tiny: tuple[Path, Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_file(tiny[1], folder)
    return folder


def both_networks(
    detector: official.MMDetDetector, converted: Path, pixels: torch.Tensor, frame: Frame
) -> tuple[dict[str, Detections], dict[str, Detections], float]:
    """(mmdet's objects by its own post-processing, ours, largest difference of a logit) in double precision.

    In single precision they agree as well, until a logit of an attention mask changes its sign by rounding: masked attention
    turns that into 1e-2. mmdet computes positions in single precision always, hence differences of about 1e-5.
    """
    from mmdet.structures import DetDataSample

    theirs, ours = copy.deepcopy(detector._model).double(), mask2former.load(str(converted))._model.double()
    sizes = {"ori_shape": frame.original, "img_shape": frame.resized, "batch_input_shape": frame.padded}
    with torch.inference_mode():
        (sample,) = theirs.predict(pixels.double(), [DetDataSample(metainfo=sizes)], rescale=True)
        classes, masks = theirs.panoptic_head(theirs.extract_feat(pixels.double()), [sample])
        output = ours(pixel_values=pixels.double())
        found = find_instances(output.class_queries_logits[0], output.masks_queries_logits[0], frame)
    pairs = ((classes[-1], output.class_queries_logits), (masks[-1], output.masks_queries_logits))
    return official._detections(sample.pred_instances), found, max(float((a - b).abs().max()) for a, b in pairs)


def small(seed: int) -> tuple[torch.Tensor, Frame]:
    """Normalised pixels of an image that was not brought to 800 pixels, padded on both sides, and its sizes."""
    frame = Frame(original=(120, 150), resized=(150, 187), padded=(160, 192))
    image = np.asarray(photograph(187, 150, seed), dtype=np.float32).transpose(2, 0, 1)
    pixels = torch.zeros(1, 3, *frame.padded)
    pixels[0, :, :150, :187] = torch.from_numpy(image / 58 - 2)
    return pixels, frame


def old_name(name: str) -> str:
    """A weight's name in mmdet 2, whose layers number their attentions in the order of use."""
    layers = "transformer_decoder" in name
    name = name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1." if layers else ".attentions.0.")
    return name.replace(".ffn.", ".ffns.0.") if name.startswith("panoptic_head") else name


@pytest.mark.parametrize("seed", range(4))
def test_the_converted_network_finds_what_mmdet_finds(seed: int, detector: official.MMDetDetector, converted: Path) -> None:
    theirs, ours, difference = both_networks(detector, converted, *small(seed))
    assert difference < 1e-3  # of logits up to 10
    assert agreement(theirs, ours, score=1e-4, pixels=1e-4) == agreement(ours, theirs, score=1e-4, pixels=1e-4) == 1
    boxes = np.concatenate([objects.boxes for objects in theirs.values()])
    assert len(boxes) == 100  # not nothing compared with nothing
    assert len(np.unique(boxes, axis=0)) >= 5


@pytest.mark.parametrize("size", [(512, 512), (130, 100)])  # the second is padded
def test_both_detectors_agree_on_images(size: tuple[int, int], detector: official.MMDetDetector, converted: Path) -> None:
    """In single precision and at full size, with what rounding does to random weights."""
    images = [photograph(*size, seed) for seed in (0, 1)]
    theirs = detector.detect(images)
    ours = mask2former.load(str(converted)).detect(images)
    assert all(agreement(*pair, score=0.01, pixels=0.01) > 0.9 for pair in zip(theirs, ours, strict=True))
    assert agreement(*theirs, score=0.01, pixels=0.01) < 0.5


@pytest.mark.parametrize(
    "name",
    [
        "backbone.stages.0.downsample.reduction.weight",
        "backbone.stages.0.blocks.1.attn.w_msa.relative_position_bias_table",
        "panoptic_head.pixel_decoder.level_encoding.weight",
        "panoptic_head.transformer_decoder.layers.0.norms.1.weight",
    ],
)
def test_one_weight_in_another_order_is_seen(
    name: str, tiny: tuple[Path, Path, dict[str, torch.Tensor]], detector: official.MMDetDetector, tmp_path: Path
) -> None:
    torch.save({**tiny[2], name: tiny[2][name].roll(1, 0)}, tmp_path / "rolled.pth")
    convert_file(tmp_path / "rolled.pth", tmp_path)
    theirs, ours, difference = both_networks(detector, tmp_path, *small(0))
    assert difference > 0.01
    assert agreement(theirs, ours, score=1e-4, pixels=1e-4) < 0.5


def test_the_detector_is_mmdets_own_inference_to_the_bit(tiny: tuple[Path, Path, Any], detector: official.MMDetDetector) -> None:
    """On images that need no padding, which mmdet 2 and 3 do differently, resized as bytes, as mmdet 2 did."""
    from mmcv.transforms import Compose
    from mmdet.apis import inference_detector, init_detector
    from mmdet.utils import get_test_pipeline_cfg

    model = init_detector(str(tiny[0]), str(tiny[1]), palette="coco", device="cpu")
    pipeline = get_test_pipeline_cfg(model.cfg)
    pipeline[0].update(type="mmdet.LoadImageFromNDArray", to_float32=False)
    image = photograph(528, 400, seed=2)
    theirs = inference_detector(model, np.asarray(image)[:, :, ::-1], Compose(pipeline)).pred_instances.numpy()
    (ours,) = detector.detect([image])
    for label, name in enumerate(OBJECT_NAMES):
        indices = np.flatnonzero(theirs.labels == label)
        assert len(indices) == len(ours.get(name, []))
        if len(indices):
            np.testing.assert_array_equal(ours[name].scores, theirs.scores[indices])
            np.testing.assert_array_equal(ours[name].boxes, theirs.bboxes[indices])
            np.testing.assert_array_equal(ours[name].masks, theirs.masks[indices])
    from mmdet.datasets import CocoDataset

    assert CocoDataset.METAINFO["classes"] == COCO_NAMES


def test_an_image_gets_the_same_objects_alone_and_in_a_batch(detector: official.MMDetDetector) -> None:
    images = [photograph(130, 100, seed) for seed in (0, 1)]
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        assert agreement(detector.detect([image])[0], found, score=0.01, pixels=0.01) > 0.95


def test_a_checkpoint_of_mmdet_2_gives_the_same_weights(
    tiny: tuple[Path, Path, dict[str, torch.Tensor]], detector: official.MMDetDetector, converted: Path, tmp_path: Path
) -> None:
    state = tiny[2]
    old = {old_name(name): value for name, value in state.items()}
    changed = [name for name in old if name not in state]
    assert len(changed) == 2 * 8 + 4 * 8 + (2 + 4) * 4  # attentions of both decoders, then their feed-forward parts
    assert {name.split(".")[-3] for name in changed if "in_proj" in name or "output_proj" in name} <= {"0", "1", "attentions"}
    torch.save({"state_dict": old}, tmp_path / "old.pth")
    read, sha256 = read_checkpoint(tmp_path / "old.pth")
    assert sha256 == file_sha256(tmp_path / "old.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) for name, value in state.items())
    again = official.load(tmp_path / "old.pth", config=tiny[0])
    assert sha256 in again.revision
    assert again._model.state_dict().keys() == detector._model.state_dict().keys()
    assert all(torch.equal(value, detector._model.state_dict()[name]) for name, value in again._model.state_dict().items())
    convert_file(tmp_path / "old.pth", tmp_path / "hf")
    with safe_open(converted / "model.safetensors", "pt") as one, safe_open(tmp_path / "hf/model.safetensors", "pt") as other:
        assert all(torch.equal(one.get_tensor(name), other.get_tensor(name)) for name in one.keys())  # noqa: SIM118
    assert f"converted from {sha256}" in mask2former.load(str(tmp_path / "hf")).revision


def test_the_conversion_uses_every_weight_and_repeats_to_the_byte(
    tiny: tuple[Path, Path, dict[str, torch.Tensor]], converted: Path, tmp_path: Path
) -> None:
    state = {name: value for name, value in tiny[2].items() if not name.endswith("relative_position_index")}
    config, weights = convert(tiny[2], "tiny")
    empty_weight = weights.pop("criterion.empty_weight")
    assert empty_weight.tolist() == [1.0] * 80 + [pytest.approx(0.1)]
    old, new = (torch.cat([value.flatten() for value in of.values()]).sort().values for of in (state, weights))
    assert torch.equal(old, new)
    assert config.backbone_config.depths == [2, 1, 2, 1]
    convert_file(tiny[1], tmp_path)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes()


def test_the_real_sizes_are_read_off_the_shapes() -> None:
    """mmdet's Swin-S itself, built from its own config: 68.7 million weights, all converted."""
    official._import_mmdet()
    state = official._build(None).state_dict()
    config, weights = convert(state, "swin-s")
    swin = config.backbone_config
    assert (swin.embed_dim, swin.depths, swin.num_heads, swin.window_size) == (96, [2, 2, 18, 2], [3, 6, 12, 24], 7)
    assert (swin.mlp_ratio, swin.qkv_bias, swin.hidden_act, swin.layer_norm_eps) == (4.0, True, "gelu", 1e-5)
    from transformers import Mask2FormerConfig

    default = Mask2FormerConfig().to_dict()  # of facebook/mask2former-swin-small-coco-instance
    ours = config.to_dict()
    assert {key for key in default if ours[key] != default[key]} == {"architectures", "backbone_config", "id2label", "label2id"}
    learned = sum(value.numel() for name, value in state.items() if not name.endswith("relative_position_index"))
    assert sum(value.numel() for value in weights.values()) - 81 == learned
    assert learned == pytest.approx(68.7e6, rel=0.01)


def test_weights_of_another_network_are_refused(tiny: tuple[Path, Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    config, checkpoint, state = tiny
    name = "panoptic_head.mask_embed.2.bias"
    with pytest.raises(UserError, match=rf"lacks 1 weights \['{name}'\] and has 1 foreign ones \['extra'\]"):
        convert({**{key: value for key, value in state.items() if key != name}, "extra": state[name]}, "x")
    with pytest.raises(UserError, match=r"has no backbone.patch_embed.projection.weight: must be a Mask2Former with a Swin"):
        convert({"conv.weight": state[name]}, "x")
    with pytest.raises(UserError, match="133 classes, must be COCO's 80"):
        convert({**state, "panoptic_head.cls_embed.weight": torch.zeros(134, 32)}, "x")
    with pytest.raises(UserError, match="weights of another network than the config's"):
        official.load(checkpoint)
    torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "short.pth")
    with pytest.raises(UserError, match=f"Missing key.*{name}"):
        official.load(tmp_path / "short.pth", config=config)
    with pytest.raises(UserError, match="no such file; give an mmdet config"):
        official.load(checkpoint, config=tmp_path / "absent.py")


def test_what_is_no_checkpoint_is_refused_in_one_line(tiny: tuple[Path, Path, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match="no such file; give an OpenMMLab"):
        read_checkpoint(path)
    torch.save({"state_dict": {}, "message_hub": Path("x")}, path)
    with pytest.raises(UserError, match=r"may run code .* keep its weights alone: python -c") as caught:
        read_checkpoint(path)
    torch.save({"state_dict": tiny[2], "message_hub": Path("x")}, path)
    command = re.search(r'python -c "(.*)"$', str(caught.value))
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)  # the remedy works as printed
    assert read_checkpoint(tmp_path / "weights.pth")[0].keys() == tiny[2].keys()
    path.write_bytes(tiny[1].read_bytes()[:1000])
    with pytest.raises(UserError, match="not a PyTorch checkpoint"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no state_dict"):
        read_checkpoint(path)
    torch.save({"x": torch.zeros(2)}, path)
    named = tmp_path / f"mask2former_20220504_001756-{file_sha256(path)[:8]}.pth"
    path.rename(named)
    assert set(read_checkpoint(named)[0]) == {"x"}
    named.write_bytes(named.read_bytes() + b"\0")
    with pytest.raises(UserError, match="damaged; download it again"):
        read_checkpoint(named)


def test_the_converter_is_a_command(tiny: tuple[Path, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "evaluators.detectors.openmmlab", str(tiny[1]), str(tmp_path / "hf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == str(tmp_path / "hf")
    assert mask2former.load(str(tmp_path / "hf")).detect([Image.new("RGB", (64, 64))])
    assert main([str(tmp_path / "absent.pth"), str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_without_mmdet_the_line_names_the_extra() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nsys.modules['mmdet'] = None\n"
        "from evaluators.detectors.mmdet import load\ntry: load(Path('x.pth'))\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert re.fullmatch(r"detector='mmdet': needs mmdet \(.*\); install it with: pip install -e '\.\[mmdet\]'\n", done.stdout)


def test_a_kernel_that_mmcv_lite_lacks_is_named_when_it_is_called() -> None:
    official._import_mmdet()
    from mmcv.ops import RoIAlign

    with pytest.raises(UserError, match="mmcv's kernel roi_align_forward is called"):
        RoIAlign(2)(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]))
