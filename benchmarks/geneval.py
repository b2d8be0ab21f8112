"""GenEval's evaluator, images a second: one image at a time as the official script goes, against this one's batches.

    python -m benchmarks.geneval --device cuda --num-images 64 --out geneval_speed.json

Both ways use the same Mask2Former and CLIP, of the real sizes with random weights unless --weights and --clip name others, on
the same PNG files, and are timed in turn in one run. One at a time: decode, detect, and classify each object by itself.
Batched: the next images are decoded meanwhile, and all objects of a batch are classified together.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import alternate
from evaluators.colors import clip
from evaluators.detection import ColorClassifier, Detector
from evaluators.detectors import mask2former
from evaluators.detectors.coco import OBJECT_NAMES
from evaluators.geneval.cache import Cache, Evaluator, candidates
from evaluators.geneval.crops import object_crops, upright_rgb
from evaluators.geneval.detect import detect_images
from evaluators.geneval.folder import Scan, scan
from rf_repro.core.untrusted.image_header import read_image

CLASS = "dog"
# `--small`: real in everything but size.
SMALL_SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 6]}
SMALL_MASK2FORMER = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "encoder_layers": 1,
    "decoder_layers": 2, "dim_feedforward": 32, "num_queries": 20, "num_attention_heads": 2,
}  # fmt: skip
SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 16, "heads": 1, "layers": 1},
}


def write_images(root: Path, num: int, side: int) -> Scan:
    """Smooth noise, four images a prompt, all of which ask a colour: the most expensive kind of prompt."""
    rng = np.random.default_rng(0)
    prompts = num // 4
    for prompt in range(prompts):
        folder = root / f"{prompt:05d}" / "samples"
        folder.mkdir(parents=True)
        metadata = {"tag": "colors", "prompt": f"{prompt}", "include": [{"class": CLASS, "count": 1, "color": "red"}]}
        (folder.parent / "metadata.jsonl").write_text(json.dumps(metadata))
        for sample in range(4):
            noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
            noise.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{sample:04d}.png")
    return scan(root, num_prompts=prompts)


def one_at_a_time(images: Scan, detector: Detector, classifier: ColorClassifier) -> None:
    for item in images.images:
        pixels = upright_rgb(read_image(item.path))
        found = detector.detect([pixels])[0]
        for index in candidates(found[CLASS]) if CLASS in found else []:
            classifier.classify(object_crops(pixels, found[CLASS].take([index])), [CLASS])


def batched(images: Scan, detector: Detector, classifier: ColorClassifier, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), Evaluator.of(detector), Evaluator.of(classifier))
        detect_images(images.images, images.prompts, detector, classifier, cache, batch_size=batch_size)


def random_detector(device: str, small: bool) -> mask2former.Mask2FormerDetector:
    """Mask2Former Swin-S of random weights whose scores spread, so that there are objects to classify."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    sizes: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]}
    swin = SwinConfig(**(sizes | SMALL_SWIN if small else sizes), window_size=7, out_features=stages)
    config = Mask2FormerConfig(
        backbone_config=swin, id2label=dict(enumerate(OBJECT_NAMES)), **(SMALL_MASK2FORMER if small else {})
    )
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.normal_(std=0.5)
    return mask2former.Mask2FormerDetector(model, "random", torch.device(device))


def random_classifier(device: str, small: bool) -> clip.ClipColorClassifier:
    import open_clip

    profile = clip.PROFILES["geneval-2023"]
    torch.manual_seed(1)
    model = open_clip.CLIP(**SMALL_CLIP, quick_gelu=profile.quick_gelu) if small else clip.build(clip.ARCHITECTURE, profile)
    model = model.to(device).eval()
    return clip.ClipColorClassifier(
        model, open_clip.get_tokenizer(clip.ARCHITECTURE), open_clip.image_transform(model.visual.image_size, is_train=False),
        profile, name="random", revision="random", weights_path=Path("none"),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute (default cpu)")
    parser.add_argument("--num-images", type=int, default=8, help="a multiple of 4 (default 8)")
    parser.add_argument("--side", type=int, default=512, help="pixels (default 512)")
    parser.add_argument("--batch-size", type=int, default=4, help="images (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each way, after one that warms up (default 3)")
    parser.add_argument("--weights", help="Mask2Former's, a folder or a hub id (default: random)")
    parser.add_argument("--clip", help="CLIP's (default: random)")
    parser.add_argument("--small", action="store_true", help="small models of random weights: no measurement")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(arguments)
    device, small = options.device, options.small
    detector = mask2former.load(options.weights, device) if options.weights else random_detector(device, small)
    classifier = clip.load(options.clip, device=device) if options.clip else random_classifier(device, small)
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder), options.num_images, options.side)
        ways: dict[str, Callable[[], None]] = {
            "one at a time": lambda: one_at_a_time(images, detector, classifier),
            f"batches of {options.batch_size}": lambda: batched(images, detector, classifier, options.batch_size),
        }
        seconds = alternate(ways, torch.device(options.device), options.repeats, wall=True)
    rates = {name: options.num_images / taken for name, taken in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:<20} {rate:8.2f} images/s")
    slow, fast = rates.values()
    print(f"{'batched is':<20} {fast / slow:8.2f}x")
    if options.out:
        options.out.write_text(json.dumps({"images_per_second": rates, "ratio": fast / slow, "device": options.device}, indent=1))


if __name__ == "__main__":
    main()
