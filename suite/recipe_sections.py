"""The sections of a recipe and what their fields may be; ranges stand with each field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from suite.launch.worker import Patience
from suite.strict_yaml import Aliases, Limit

Count = Annotated[int, Limit("at least 1", lambda value: value >= 1)]
CountOrZero = Annotated[int, Limit("at least 0", lambda value: value >= 0)]
Positive = Annotated[float, Limit("more than 0", lambda value: value > 0)]
PositiveOrZero = Annotated[float, Limit("at least 0", lambda value: value >= 0)]
Share = Annotated[float, Limit("a number from 0 to 1", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Limit("from 0 to below 1", lambda value: 0 <= value < 1)]
Seed = Annotated[int, Limit("from 0 to 4294967295", lambda value: 0 <= value < 2**32)]
# It names run folders: safe on every file system, and no flag on a command line.
NAME_LIMIT = Limit(
    "at most 64 ASCII letters, digits, '-' and '_', a letter or digit first",
    lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value) is not None,
)
Name = Annotated[str, NAME_LIMIT]
PathOrUrl = Annotated[
    str,
    Limit(
        "a path or an https URL", lambda value: value.startswith("https://") or "://" not in value
    ),
]
DatasetName = Annotated[
    str, Limit("a name such as COCO2017", lambda value: value.strip() == value != "")
]
# What the graph's operators take: 3840 is TensorRT's limit for one TopK, 700 that of CANN's
# NonMaxSuppression.
Candidates = Annotated[int, Limit("from 1 to 3840", lambda value: 1 <= value <= 3840)]
Kept = Annotated[int, Limit("from 1 to 700", lambda value: 1 <= value <= 700)]
MAX_SIDE = 16384
Pixels = Annotated[int, Limit(f"from 1 to {MAX_SIDE}", lambda value: 1 <= value <= MAX_SIDE)]
Stages = Annotated[int, Limit("from 0 to 4", lambda value: 0 <= value <= 4)]
# The names that Ascend's tools give to mixed precision.
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"], Aliases({"O0": "fp32", "O1": "fp16", "O2": "fp16"})
]


@dataclass(frozen=True, kw_only=True)
class RetinaNetVariant:
    """Where published RetinaNets differ; the defaults are mmdetection's.

    Imported weights bring the right values along.
    """

    caffe_stride: bool = False
    """Stride 2 in the 1x1 convolution of a bottleneck, as in Caffe's ResNets, not in the 3x3."""
    p6_from: Literal["c5", "p5"] = "c5"
    """What P6 is computed from: the backbone's last stage, or the finished P5 (torchvision)."""
    relu_before_p7: bool = False
    """Whether P7 is computed from the rectified P6 (torchvision, Detectron2)."""
    anchors: Literal["exact", "torchvision"] = "exact"
    """`torchvision` rounds the anchors' sides, and their distance where a map is not a whole
    fraction of the image."""
    normaliser: Literal["batch", "image"] = "batch"
    """Losses are divided by the positive anchors of the device's batch, or of each image."""
    low_quality: Literal["forced", "own_best"] = "forced"
    """What the best anchors of a box learn: this box, or the box that they overlap most."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Which network."""

    name: Literal[
        "ssd_r34",
        "retinanet_r18_fpn",
        "retinanet_r34_fpn",
        "retinanet_r50_fpn",
        "retinanet_r101_fpn",
    ]
    """A key of `models.DETECTORS`."""
    num_classes: Count
    """Classes of the data, background not counted."""
    backbone_weights: PathOrUrl | None
    """ImageNet weights to start from; null: random initialisation."""
    width: Positive = 1.0
    """Channel multiplier; 1.0 is the published detector."""
    padding: Literal["torch", "same"] = "torch"
    """Of strided layers: `torch` goes with torchvision's weights, `same` with TensorFlow's."""
    weights: str | None = None
    """A checkpoint of this suite to start from, such as one that `suite weights import` wrote; the
    class head starts afresh where it has another number of classes."""
    frozen_stages: Stages | None = None
    """Stages of the backbone that are not trained, its stem with the first of them; null: as
    published, 1 in RetinaNet and 0 in SSD."""
    variant: RetinaNetVariant = RetinaNetVariant()
    """RetinaNet's alone."""


@dataclass(frozen=True, kw_only=True)
class Resize:
    """How an image becomes the network's input; the defaults are SSD's, which knows no other."""

    mode: Literal["stretch", "pad", "fixed"] = "stretch"
    """stretch: to `short_side` x `short_side`, whatever the image's shape. pad: the image keeps its
    shape, and the input ends at multiples of 32 pixels. fixed: so too, but there are only two
    inputs, lying and standing, which compilers want."""
    short_side: Pixels = 300
    """The image's shorter side becomes this ..."""
    long_side: Pixels = 300
    """... unless the longer one would become more than this."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where one part of the data lies, relative to `data.root`."""

    annotations: str
    """coco: the JSON file. voc: the image set, such as `train` for ImageSets/Main/train.txt. yolo:
    the folder of the label files. tfrecord: the pattern of the files, such as `train2017*`."""
    images: str | None = None
    """coco, yolo: folder of the images. voc, tfrecord: left out, they say it themselves."""
    ground_truth: str | None = None
    """val: a COCO JSON file of the same images that evaluation is judged by, as the Ascend
    ModelZoo's `--val_json_file`; null: by the annotations themselves."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images and boxes."""

    name: DatasetName
    """As in published tables, such as COCO2017; only numbers on data of one name are compared."""
    format: Literal["coco", "voc", "yolo", "tfrecord"]
    """COCO JSON, Pascal VOC XML, YOLO text files or TensorFlow's records."""
    root: str
    """Folder that holds all of it; `--data` overrides it."""
    train: Split
    """Trained on."""
    val: Split
    """Evaluated on."""
    use_crowd: bool
    """Whether COCO crowd boxes and VOC `difficult` objects are training targets."""
    label_map: str | None = None
    """voc, tfrecord: a label map (.pbtxt); yolo: data.yaml. Relative to `root`. null:
    label_map.pbtxt or data.yaml there; where there is none, the names that the annotations say."""
    workers: CountOrZero = 2
    """Loader processes a device; never changes a result."""
    timeout_s: Positive = 120.0
    """Seconds without a sample from any loader process after which the run ends; without processes
    (`workers` 0) nothing watches."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Where training images are kept decoded; `--cache` overrides it. Never changes a result."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """What an image that cannot be read does to a training run: end it, or be replaced by the next
    one in order."""
    bad_sample_limit: Share = 0.01
    """A run ends when more than this part of its images cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How training images are varied."""

    crop: Literal["none", "all_boxes", "any_box"]
    """Which boxes must overlap a random crop enough: `all_boxes` as published for SSD-ResNet34, or
    `any_box`, which crowded images can satisfy."""
    crop_factor: Share = 1.0
    """Multiplies the overlaps asked for (0, 0.1, ... 0.9); small objects need less than 1."""
    flip: Share
    """Probability of a horizontal flip."""
    jitter: bool
    """Whether brightness, contrast, saturation and hue are varied."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Stochastic gradient descent with momentum."""

    momentum: BelowOne
    """0.9 in every published SSD and RetinaNet."""
    weight_decay: PositiveOrZero
    """L2 penalty, on every parameter that is trained."""
    clip_norm: Positive | None = None
    """Largest L2 norm of the whole gradient; null: not clipped."""
    ema_decay: BelowOne | None = None
    """Decay per step of averaged weights; null: none are kept."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and the learning rate on the way: linear warm-up, then a cosine or steps."""

    epochs: Positive
    """Length of the run; fractions are meant."""
    nominal_epoch_images: Count | None = None
    """Nominal images per epoch; null: the size of the training set."""
    base_lr: Positive
    """Peak learning rate at `base_batch` images a step; scaled linearly to the global batch."""
    base_batch: Count
    """Images a step that `base_lr` is stated for."""
    warmup_epochs: PositiveOrZero | None = None
    """Linear over these, or ..."""
    warmup_steps: CountOrZero | None = None
    """... over these."""
    warmup_start: Share = 0.0
    """The warm-up's first rate is this part of the rate it leads to."""
    decay_epochs: Positive | None = None
    """The cosine's length, counted from the first step, not from the end of the warm-up."""
    final_lr_factor: Share | None = None
    """The cosine ends at this part of the peak and stays there."""
    milestones: tuple[Positive, ...] = ()
    """Instead of a cosine: the rate is divided by 10 at the end of each of these epochs."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How long the processes of a run on several devices wait for each other."""

    join_timeout_s: Positive = Patience.join_s
    """Seconds until all of them have to have come."""
    step_timeout_s: Positive = Patience.step_s
    """Seconds without progress after which a process counts as lost; a tenth of them without any
    sign of life."""

    @property
    def patience(self) -> Patience:
        """Both."""
        return Patience(join_s=self.join_timeout_s, step_s=self.step_timeout_s)


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """From scores to detections."""

    score_threshold: BelowOne
    """Detections score strictly more."""
    iou_threshold: Share
    """A box goes when it overlaps a better one of its class strictly more."""
    max_detections: Kept
    """Kept per image."""
    pre_topk: Candidates
    """Candidates that reach suppression, per image (SSD) or per pyramid level (RetinaNet)."""
