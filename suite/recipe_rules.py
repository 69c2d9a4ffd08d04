"""What the fields of a recipe ask of each other, beyond the range of each."""

from __future__ import annotations

from operator import ge

from suite.strict_yaml import Rule


def _build_images_rules(split: str) -> tuple[Rule, Rule]:
    keys = (f"data.{split}.images", "data.format")
    return (
        Rule(
            keys,
            lambda images, form: form not in ("coco", "yolo") or images is not None,
            f"format {{1}} needs data.{split}.images, the folder of the images",
        ),
        Rule(
            keys,
            lambda images, form: form not in ("voc", "tfrecord") or images is None,
            f"format {{1}} knows its images itself; leave data.{split}.images out",
        ),
    )


RULES = (
    *_build_images_rules("train"),
    *_build_images_rules("val"),
    Rule(
        ("data.train.ground_truth",),
        lambda path: path is None,
        "only val is judged; leave data.train.ground_truth out",
    ),
    Rule(
        ("data.label_map", "data.format"),
        lambda label_map, form: label_map is None or form != "coco",
        "a COCO file names its classes itself; leave data.label_map out",
    ),
    Rule(
        ("global_batch", "devices"),
        lambda batch, devices: batch % devices == 0,
        "{0} images a step (global_batch) cannot be shared evenly by {1} devices",
    ),
    Rule(
        ("schedule.nominal_epoch_images", "global_batch"),
        lambda images, batch: images is None or images >= batch,
        "{0} images an epoch (nominal_epoch_images) are fewer than {1} a step (global_batch)",
    ),
    Rule(
        ("schedule.warmup_epochs", "schedule.warmup_steps"),
        lambda epochs, steps: (epochs is None) != (steps is None),
        "give either warmup_epochs or warmup_steps",
    ),
    Rule(
        ("schedule.decay_epochs", "schedule.final_lr_factor", "schedule.milestones"),
        lambda decay, floor, milestones: (decay is None) == (floor is None) == bool(milestones),
        "give either decay_epochs and final_lr_factor (cosine) or milestones (steps)",
    ),
    Rule(
        ("schedule.milestones",),
        lambda milestones: list(milestones) == sorted(set(milestones)),
        "milestones have to rise",
    ),
    Rule(
        ("schedule.milestones", "schedule.epochs"),
        lambda milestones, epochs: all(milestone < epochs for milestone in milestones),
        "milestones {0} have to come before the end, {1:g} epochs",
    ),
    Rule(
        ("schedule.decay_epochs", "schedule.warmup_epochs"),
        lambda decay, warmup: decay is None or warmup is None or decay > warmup,
        "a decay of {0:g} epochs has to be longer than a warm-up of {1:g}",
    ),
    Rule(
        ("resize.long_side", "resize.short_side"),
        ge,
        "long_side {0} is less than short_side {1}",
    ),
    Rule(
        ("static_shapes", "resize.mode"),
        lambda static, mode: not static or mode != "pad",
        "static_shapes needs few canvases; give resize.mode fixed or stretch, not {1}",
    ),
    Rule(
        ("resize.mode", "resize.long_side", "resize.short_side"),
        lambda mode, long, short: mode != "stretch" or long == short,
        "mode stretch makes squares; long_side is {1}, short_side {2}",
    ),
    Rule(
        ("detector.name", "resize.mode", "resize.short_side"),
        lambda name, mode, side: name != "ssd_r34" or (mode == "stretch" and side == 300),
        "ssd_r34 takes images stretched to 300x300; leave the section resize out",
    ),
    Rule(
        ("detector.name", "resize.mode"),
        lambda name, mode: name == "ssd_r34" or mode != "stretch",
        "{0} keeps an image's shape; give resize.mode pad or fixed, with both sides",
    ),
    Rule(
        ("detector.name", "detector.frozen_stages"),
        lambda name, stages: name != "ssd_r34" or stages in (None, 0, 1, 2, 3),
        "ssd_r34 has three stages, not {1}",
    ),
    Rule(
        ("detector.backbone_weights", "detector.weights"),
        lambda backbone, weights: backbone is None or weights is None,
        "detector.weights has a backbone too; set backbone_weights to null",
    ),
    Rule(
        ("detector.name", "detector.variant.caffe_stride"),
        lambda name, caffe: not caffe or name not in ("retinanet_r18_fpn", "retinanet_r34_fpn"),
        "{0} has no bottlenecks whose stride could be moved (caffe_stride)",
    ),
    Rule(
        ("detector.name", "detector.variant"),
        lambda name, variant: name != "ssd_r34" or variant == type(variant)(),
        "detector.variant is RetinaNet's; {0} has none",
    ),
    Rule(
        ("detector.name", "augment.crop"),
        lambda name, crop: name == "ssd_r34" or crop == "none",
        "crop {1} is SSD's; {0} is trained on whole images, crop none",
    ),
    Rule(
        ("postprocess.pre_topk", "postprocess.max_detections"),
        ge,
        "{0} candidates (pre_topk) are fewer than {1} detections (max_detections)",
    ),
)
