"""Write small checkpoints with a real TensorFlow, and what is in them, for the tests of our reader.

    python -m venv tf && tf/bin/pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    tf/bin/python tests/witnesses/tensorflow_checkpoint.py FOLDER
    tf/bin/python tests/witnesses/tensorflow_checkpoint.py --pack FILE.tar.xz
    tf/bin/python tests/witnesses/tensorflow_checkpoint.py FOLDER --published

Each checkpoint NAME has its values beside it in NAME.npz. `imagenet` and `detector` are a narrow
ResNet-34 built with TensorFlow's own layers, so its names are TensorFlow's, and what its third
stage answers to an input is in `features.npz`. As published, the classifier has four stages, the
detector three. `--published` writes both at the published width too (450 MB).
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the numbered layers of TensorFlow 1 live there

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
NARROW = (8, 16, 32, 64)  # ours at width 0.125
PUBLISHED = (64, 128, 256, 512)
BLOCKS = (3, 4, 6, 3)
IMAGE_SIZE = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--published", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_all(folder)
        if arguments.published:
            write_classifier(folder / "published" / "model.ckpt-28152", channels=PUBLISHED)
            write_detector(folder / "published" / "model.ckpt-120000", channels=PUBLISHED)
        if arguments.pack:
            pack(folder, arguments.pack)


def write_all(folder: Path) -> None:
    write_types(folder / "types")
    write_shards(folder / "shards")
    write_many(folder / "many")
    write_objects(folder / "objects")
    write_slices(folder / "slices")
    write_classifier(folder / "imagenet", channels=NARROW)
    write_detector(folder / "detector", channels=NARROW)


def write_types(prefix: Path) -> None:
    """Every type that torch has, a scalar, nothing at all, and a text, which is no tensor."""
    values = {
        "float32": np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4),
        "float64": np.linspace(-1, 1, 5) ** 3,
        "float16": np.arange(6, dtype=np.float16) / 4,
        "int8": np.arange(-3, 4, dtype=np.int8),
        "uint8": np.arange(250, 256, dtype=np.uint8),
        "int16": np.array([-30000, 30000], np.int16),
        "int32": np.array([[-(2**31), 2**31 - 1]], np.int32),
        "int64": np.array(2**62 + 1, np.int64),
        "bool": np.array([True, False, True]),
        "empty": np.zeros((3, 0), np.float32),
        "long": np.arange(5000, dtype=np.float32),
    }
    tensors = {name: tf.constant(value) for name, value in values.items()}
    tensors["bfloat16"] = tf.cast(tf.constant([1.5, -0.0078125, 3e38]), tf.bfloat16)
    tensors["text"] = tf.constant(["two", "words"])
    save(prefix, tensors)
    values["bfloat16"] = tf.cast(tensors["bfloat16"], tf.float32).numpy()
    np.savez(prefix.with_suffix(".npz"), **values)


def write_shards(prefix: Path) -> None:
    """Three data files under one index, as a run on three machines leaves them."""
    parts = []
    values = {}
    for number in range(3):
        part = {f"part_{number}/{name}": np.float32(number) + np.arange(4.0) for name in "ab"}
        parts.append(prefix.with_name(f"{prefix.name}_part_{number}"))
        save(parts[-1], {name: tf.constant(value) for name, value in part.items()})
        values |= part
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(part) for part in parts], destination_prefix=str(prefix)
    )
    np.savez(prefix.with_suffix(".npz"), **values)


def write_many(prefix: Path) -> None:
    """So many tensors that the index has several blocks (of 256 KiB)."""
    names = [f"layer_{number:04d}/" + "x" * 110 for number in range(5000)]
    values = np.arange(5000, dtype=np.int16)
    save(prefix, dict(zip(names, tf.unstack(tf.constant(values)), strict=True)))
    np.savez(prefix.with_suffix(".npz"), names=names, values=values)


def write_objects(prefix: Path) -> None:
    """A checkpoint of TensorFlow 2, whose names are paths through objects."""
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    tf.train.Checkpoint(kernel=tf.Variable(kernel)).write(str(prefix))
    np.savez(prefix.with_suffix(".npz"), **{"kernel/.ATTRIBUTES/VARIABLE_VALUE": kernel})


def write_slices(prefix: Path) -> None:
    """A partitioned variable and a whole one."""
    with tf.Graph().as_default(), v1.Session() as session:
        cut = v1.fixed_size_partitioner(2)
        v1.get_variable("cut", shape=(4, 3), partitioner=cut, use_resource=False)
        v1.get_variable("whole", initializer=np.arange(3, dtype=np.float32))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix), write_meta_graph=False, write_state=False)
    np.savez(prefix.with_suffix(".npz"), whole=np.arange(3, dtype=np.float32))


def write_classifier(prefix: Path, *, channels: Sequence[int]) -> None:
    """The whole ResNet-34 with its classifier."""
    with tf.Graph().as_default():
        images = v1.placeholder(tf.float32, (1, IMAGE_SIZE, IMAGE_SIZE, 3))
        stages = build_backbone(images, channels)
        loss = tf.reduce_mean(v1.layers.dense(tf.reduce_mean(stages[-1], (1, 2)), 10))
        write_network(prefix, images, third_stage=stages[2], loss=loss)


def write_detector(prefix: Path, *, channels: Sequence[int]) -> None:
    """Three stages in a scope, and layers of SSD's, as the TPU code has them."""
    with tf.Graph().as_default():
        images = v1.placeholder(tf.float32, (1, IMAGE_SIZE, IMAGE_SIZE, 3))
        with v1.variable_scope("resnet34", reuse=v1.AUTO_REUSE):
            third_stage = build_backbone(images, channels[:3])[-1]
        with v1.variable_scope("ssd", reuse=v1.AUTO_REUSE):
            boxes = v1.layers.conv2d(third_stage, 4, 3, padding="SAME", name="box-0")
        write_network(prefix, images, third_stage=third_stage, loss=tf.reduce_mean(boxes))


def write_network(
    prefix: Path, images: tf.Tensor, *, third_stage: tf.Tensor, loss: tf.Tensor
) -> None:
    """The default graph's variables after one step, with what the third stage answers."""
    prefix.parent.mkdir(exist_ok=True)
    step = v1.train.get_or_create_global_step()
    train = v1.train.MomentumOptimizer(0.0, 0.0).minimize(loss, global_step=step)
    saver = v1.train.Saver()
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        session.run(train, {images: np.zeros(images.shape, np.float32)})
        for variable in v1.global_variables():
            variable.load(simple_values(variable), session)
        saver.save(session, str(prefix), write_meta_graph=False, write_state=False)
        values = {v.op.name: session.run(v) for v in v1.global_variables()}
        pixels = (np.random.default_rng(1).integers(-4, 5, images.shape) / 4).astype(np.float32)
        answer = session.run(third_stage, {images: pixels})
    np.savez(prefix.with_name(f"{prefix.name}.npz"), **values)
    # The same for both networks, whose first three stages hold the same values.
    np.savez(prefix.with_name("features.npz"), pixels=pixels, third_stage=answer)


def build_backbone(images: tf.Tensor, widths: Sequence[int]) -> list[tf.Tensor]:
    """As many stages as widths. The strides are SSD's; kernels do not depend on them."""
    features = tf.nn.relu(normalise(convolve(images, widths[0], kernel=7, stride=2)))
    features = v1.layers.max_pooling2d(features, 3, 2, padding="SAME")
    stages = []
    for number, (channels, stride) in enumerate(zip(widths, (1, 2, 1, 2), strict=False)):
        for block in range(BLOCKS[number]):
            shortcut = features
            first = stride if block == 0 else 1
            if block == 0 and number > 0:
                shortcut = normalise(convolve(features, channels, kernel=1, stride=first))
            features = tf.nn.relu(normalise(convolve(features, channels, kernel=3, stride=first)))
            features = normalise(convolve(features, channels, kernel=3, stride=1))
            features = tf.nn.relu(features + shortcut)
        stages.append(features)
    return stages


def convolve(features: tf.Tensor, channels: int, *, kernel: int, stride: int) -> tf.Tensor:
    """A convolution without bias; with a stride its padding is explicit and symmetric."""
    padding = "SAME"
    if stride > 1:
        before, after = (kernel - 1) // 2, kernel // 2
        features = tf.pad(features, [[0, 0], [before, after], [before, after], [0, 0]])
        padding = "VALID"
    return v1.layers.conv2d(features, channels, kernel, stride, padding=padding, use_bias=False)


def normalise(features: tf.Tensor) -> tf.Tensor:
    return v1.layers.batch_normalization(features, epsilon=1e-5, momentum=0.9, fused=True)


def simple_values(variable: tf.Variable) -> np.ndarray:
    """Values that differ everywhere they must, and take little room when packed."""
    name, shape = variable.op.name, tuple(variable.shape)
    random = np.random.default_rng(sum(map(ord, name.removeprefix("resnet34/"))))
    if name == "global_step":
        return np.array(28152, np.int64)
    if name.endswith("Momentum"):
        return np.zeros(shape, np.float32)
    if name.endswith("kernel"):
        scale = 2.0 ** -np.ceil(np.log2(np.sqrt(np.prod(shape[:-1]))) + 1)
        return (random.integers(-3, 4, shape) * scale).astype(np.float32)
    values = random.integers(-4, 5, shape) / 16
    if name.endswith(("gamma", "moving_variance")):
        values = values + 0.75
    return values.astype(np.float32)


def save(prefix: Path, tensors: dict[str, tf.Tensor]) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def pack(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(folder.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)


if __name__ == "__main__":
    main()
