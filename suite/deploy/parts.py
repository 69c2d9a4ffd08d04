"""Parts of a graph in ONNX Runtime, asked about any number of images.

Shape letters: N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.deploy.graph import cut_graph
from suite.graph_file import INPUT_NAME, GraphFile
from suite.graph_session import RunGraph, open_graph
from suite.runtime import fill_batch

Outputs = Sequence[NDArray[Any]]


def open_whole(graph: GraphFile, *, source: str) -> RunGraph:
    """Open a graph as it is; it may be given any number of images.

    Raises:
        InputError: ONNX Runtime refuses it.
    """
    run = open_graph(graph.model.SerializeToString(), source=source)
    return in_batches(run, graph.metadata.batch)


def open_part(
    graph: GraphFile, *, inputs: Sequence[str], outputs: Sequence[str], source: str
) -> RunGraph:
    """Open what leads from named values to named values.

    Raises:
        InputError: the graph has no such values, or ONNX Runtime refuses them.
    """
    part = cut_graph(graph.model, inputs=inputs, outputs=outputs)
    kinds = {value.name: value for value in graph.model.graph.input}
    for value in part.graph.input:
        if value.name == INPUT_NAME:
            value.CopyFrom(kinds[INPUT_NAME])
    return in_batches(open_graph(part.SerializeToString(), source=source), graph.metadata.batch)


def in_batches(run: RunGraph, batch: int) -> RunGraph:
    """Let a graph that takes `batch` images at a time take any number; 0: it does so already.

    The last ones are filled up with copies of the last image.
    """
    if batch == 0:
        return run

    def run_all(names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        num_images = len(next(iter(inputs.values())))
        parts = [
            run(
                names,
                {
                    name: fill_batch(value[start : start + batch], batch)
                    for name, value in inputs.items()
                },
            )
            for start in range(0, num_images, batch)
        ]
        return [np.concatenate(outputs)[:num_images] for outputs in zip(*parts, strict=True)]

    return run_all
