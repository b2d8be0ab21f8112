"""The official detector: Mask2Former Swin-S through mmdet 3 (extra `mmdet`), on checkpoints of mmdet 2 or 3.

mmdet asks for mmcv's compiled kernels, which take long to build and, where the GPU is another than they were built for, print
a line and return garbage. Mask2Former needs one of them, which mmcv also has in PyTorch: that one is used, always, so that
mmcv-lite, which has no kernels, is enough.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from evaluators.detection import Detections
from evaluators.detectors.checkpoint import read_checkpoint
from evaluators.detectors.coco import OBJECT_NAMES
from evaluators.detectors.detector import Mask2Former
from evaluators.detectors.instances import by_class
from evaluators.detectors.pixels import Frame
from rf_repro.core.errors import UserError
from rf_repro.core.install import extra_hint
from rf_repro.core.streams import quiet_stderr

VERSION = 1  # of the code around the model; a change that moves any number raises it
CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"  # in mmdet's own folder
KERNELS = "mmcv._ext"


class MMDetDetector(Mask2Former):
    """mmdet's network and post-processing."""

    name = "mask2former-mmdet"

    def find(self, pixels_BCPQ: Tensor, frame: Frame) -> list[dict[str, Detections]]:
        from mmdet.structures import DetDataSample

        sizes = {"ori_shape": frame.original, "img_shape": frame.resized, "batch_input_shape": frame.padded}
        found = self._model.predict(pixels_BCPQ, [DetDataSample(metainfo=sizes) for _ in pixels_BCPQ], rescale=True)
        return [_detections(sample.pred_instances) for sample in found]


def _detections(instances: Any) -> dict[str, Detections]:
    parts = (instances.labels, instances.bboxes, instances.scores.float(), instances.masks)
    labels, boxes, scores, masks = (part.cpu().numpy() for part in parts)
    return by_class(labels, boxes, scores, masks)


def load(checkpoint: Path, device: str = "cpu", config: Path | None = None) -> MMDetDetector:
    """The detector with a checkpoint's weights. `revision` holds the library versions and the file's SHA-256.

    Args:
        config: mmdet's config of the network; None for the one of Swin-S that mmdet brings.

    Raises:
        UserError: mmdet is not installed, or the checkpoint cannot be read or is of another network.
    """
    versions = _import_mmdet()
    state, sha256 = read_checkpoint(checkpoint)
    model = _build(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(
            f"{checkpoint}: weights of another network than the config's ({reason[:200]}); give its own config"
        ) from None
    return MMDetDetector(
        model, f"{VERSION}, {versions}, torch {torch.__version__}, weights sha256 {sha256}", torch.device(device)
    )


def _import_mmdet() -> str:
    """Makes mmdet importable; returns the versions in use."""
    try:
        import mmcv

        if KERNELS not in sys.modules and importlib.util.find_spec(KERNELS) is None:
            sys.modules[KERNELS] = _NoKernels()
        with quiet_stderr():  # Matplotlib, which they draw with: see reports.figures
            import matplotlib.font_manager  # noqa: F401
        import mmdet
        import mmengine
        from mmcv.ops import multi_scale_deform_attn
    except ImportError as error:
        raise UserError(f"detector='mmdet': needs mmdet ({error}); install it with: {extra_hint('mmdet')}") from None
    multi_scale_deform_attn.IS_CUDA_AVAILABLE = False
    return f"mmdet {mmdet.__version__}, mmcv {mmcv.__version__}, mmengine {mmengine.__version__}"


class _NoKernels(ModuleType):
    """Stands where mmcv's compiled module would: mmdet's models look up kernels of all kinds on import, and call none here."""

    def __init__(self) -> None:
        super().__init__(KERNELS)
        self.__spec__ = ModuleSpec(KERNELS, None)  # mmengine takes a module without a loader for mmcv-lite

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*arguments: object, **options: object) -> None:
            raise UserError(f"mmcv's kernel {name} is called, which mmcv-lite does not have; install mmcv itself")

        return missing


def _build(config: Path | None) -> Any:
    """The network of a config, with random weights, for instances of COCO's 80 classes."""
    import mmdet
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    path = Path(mmdet.__file__).parent / CONFIG if config is None else config
    if not path.is_file():
        raise UserError(f"{path}: no such file; give an mmdet config of Mask2Former")
    settings = Config.fromfile(path).model
    if "backbone" in settings:
        settings.backbone.init_cfg = None  # ImageNet weights, which it would download for nothing
    init_default_scope("mmdet")
    model = MODELS.build(settings)
    fusion = getattr(model, "panoptic_fusion_head", None)
    if fusion is None or fusion.num_things_classes != len(OBJECT_NAMES) or not fusion.test_cfg.get("instance_on"):
        raise UserError(f"{path}: must be a Mask2Former for instance segmentation of COCO's 80 classes")
    return model
