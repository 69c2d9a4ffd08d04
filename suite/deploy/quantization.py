"""From a fp32 graph to one whose convolutions compute in 8 bits; all else stays float32.

Static, in the QDQ form: every convolution that is quantised gets pairs of QuantizeLinear and
DequantizeLinear around it, which runtimes fuse. Activations are uint8, with ranges seen on
calibration images; weights are int8, one scale per output channel. No other combination is as fast
in ONNX Runtime on x86. A Relu behind a quantised convolution goes: the range of uint8 begins at
zero, which clips as it did.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.files import file_sha256
from suite.graph_file import INPUT_NAME, THRESHOLD_NAMES
from suite.graph_metadata import Calibration, GraphMetadata
from suite.runtime import feed_graph, size_for

NUM_CALIBRATION_IMAGES = 128

Feed = dict[str, NDArray[Any]]

# Names of convolutions that stay float to the quantised graph.
Quantise = Callable[[Collection[str]], onnx.ModelProto]


def quantize_graph(
    model: onnx.ModelProto, feeds: Iterable[Feed], *, float_nodes: Collection[str] = ()
) -> onnx.ModelProto:
    """Quantise the convolutions of a graph; its metadata stay as they are.

    Args:
        model: fp32, sound; every float32 convolution in it has constant weights.
        feeds: inputs by name, on which ranges are measured; one at a time is held.
        float_nodes: convolutions that stay float, together with those that share their weights.

    Raises:
        ValueError: there are no feeds.
    """
    with calibrate(model, feeds) as quantise:
        return quantise(float_nodes)


@contextmanager
def calibrate(model: onnx.ModelProto, feeds: Iterable[Feed]) -> Iterator[Quantise]:
    """Measure ranges once; yields the function that quantises with them, as often as one likes.

    The arguments are those of `quantize_graph`.
    """
    blocks = list_blocks(model)
    reader: _Reader | None = _Reader(feeds)
    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch:
        source = Path(scratch, "float.onnx")
        source.write_bytes(_close_thresholds(model).SerializeToString())

        def quantise(float_nodes: Collection[str]) -> onnx.ModelProto:
            nonlocal reader
            staying = set(expand_blocks(blocks, float_nodes))
            quantised = _run_quantizer(source, reader, staying)
            reader = None  # the ranges are kept in the folder from now on
            _feed_float(quantised)
            return _restore(quantised, model)

        yield quantise


def list_blocks(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    """Return the convolutions by name, those that share weights together, in the graph's order.

    A head that runs on several levels is one block: its weights can have one type only.
    """
    blocks: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            blocks.setdefault(node.input[1], []).append(node.name)
    return [tuple(names) for names in blocks.values()]


def expand_blocks(blocks: Sequence[tuple[str, ...]], names: Collection[str]) -> tuple[str, ...]:
    """Return all convolutions of the blocks that these belong to, in the graph's order."""
    chosen = (block for block in blocks if not set(names).isdisjoint(block))
    return tuple(itertools.chain.from_iterable(chosen))


def choose_images(paths: Sequence[Path], limit: int) -> list[Path]:
    """Return at most `limit` images, evenly spread: neighbours in a folder are often alike."""
    count = min(limit, len(paths))
    return [paths[place * len(paths) // count] for place in range(count)]


def describe_calibration(paths: Sequence[Path], float_nodes: Collection[str]) -> Calibration:
    """Return what metadata say about calibration on these images."""
    digests = sorted(file_sha256(path) for path in paths)
    return Calibration(
        sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        num_images=len(paths),
        float_nodes=tuple(float_nodes),
    )


def prepare_feeds(paths: Sequence[Path], metadata: GraphMetadata) -> Iterator[Feed]:
    """Yield images as a graph wants them, as many at a time as it takes, one where that is free.

    What is missing to a last full batch is filled with repeats.

    Raises:
        InputError: an image cannot be read, or becomes too small for the graph.
    """
    # Those that a graph resizes itself are of different sizes, so each is a batch of its own.
    size = 1 if metadata.prepares_images else metadata.batch or 1
    sizing = size_for(metadata)
    for start in range(0, len(paths), size):
        chunk = paths[start : start + size]
        images = collate([prepare_image(read_image(path), sizing) for path in chunk]).images
        for fed, _ in feed_graph(images, metadata, source=f"the graph, of {chunk[0]}"):
            yield {INPUT_NAME: fed}


def _close_thresholds(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose thresholds are constants; of others ONNX Runtime would warn."""
    closed = onnx.ModelProto()
    closed.CopyFrom(model)
    del closed.graph.input[:]
    closed.graph.input.extend(i for i in model.graph.input if i.name not in THRESHOLD_NAMES)
    return closed


class _Reader:
    """What onnxruntime's calibration asks for images."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _run_quantizer(
    source: Path, reader: _Reader | None, float_nodes: Collection[str]
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    target = source.with_name("int8.onnx")
    with _silent():
        quantize_static(
            source,
            target,
            reader,
            # The path of a graph, not the graph: given one, it would move its weights into files.
            calibration_cache_path=source.with_name("ranges.json"),
            # Smallest and largest value. Percentiles (99.999) came no nearer to fp32's AP on the
            # demo's detector (0.2533 and 0.2516 of 0.2519) and cost two to three times the time.
            calibrate_method=CalibrationMethod.MinMax,
            # Relu only so that it merges with the convolution before it.
            op_types_to_quantize=["Conv", "Relu"],
            nodes_to_exclude=sorted(float_nodes),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return onnx.load(target)


def _feed_float(quantised: onnx.ModelProto) -> None:
    """Let convolutions that stay float read what was there before it was rounded for others.

    Not behind a convolution in 8 bits: its result is rounded as it is computed, and whoever read it
    unrounded would keep ONNX Runtime from fusing the two.
    """
    makers = {name: node for node in quantised.graph.node for name in node.output}

    def is_made_by(name: str, kind: str) -> bool:
        return name in makers and makers[name].op_type == kind

    for node in quantised.graph.node:
        if node.op_type != "Conv" or is_made_by(node.input[1], "DequantizeLinear"):
            continue
        if not is_made_by(node.input[0], "DequantizeLinear"):
            continue
        source = makers[makers[node.input[0]].input[0]].input[0]
        rounded = is_made_by(source, "Conv") and is_made_by(
            makers[source].input[1], "DequantizeLinear"
        )
        if not rounded:
            node.input[0] = source


def _restore(quantised: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Take away what onnxruntime's tool adds to a graph beside operators and weights."""
    for name in ("ir_version", "producer_name", "producer_version", "doc_string"):
        setattr(quantised, name, getattr(original, name))
    opsets = [(entry.domain, entry.version) for entry in quantised.opset_import]
    wanted = [(entry.domain, entry.version) for entry in original.opset_import]
    assert opsets == wanted, f"quantising changed opsets {wanted} to {opsets}"
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(original.metadata_props)
    graph = quantised.graph
    graph.name, graph.doc_string = original.graph.name, original.graph.doc_string
    del graph.input[:]
    graph.input.extend(original.graph.input)
    del graph.value_info[:]
    made = {name for node in graph.node for name in node.output}
    graph.value_info.extend(value for value in original.graph.value_info if value.name in made)
    for node in graph.node:
        node.doc_string = ""
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the tool's advice to preprocess, which fails on these graphs and gains nothing.

    It speaks through the root logger, which would get a handler for good if it had none.
    """
    root, handler, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
