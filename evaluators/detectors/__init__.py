"""Object detectors for photographs: Mask2Former Swin-S trained on COCO, through `transformers` or through mmdet."""
