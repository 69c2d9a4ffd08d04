"""The tables of figures in README.md, made of the records in reports/records/.

A table stands in the text between `<!-- figures: NAME -->` and `<!-- end of figures -->`; `TABLES`
says how each is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from suite.records import Record, load_record

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True)
class Records:
    """A folder of records."""

    folder: Path

    def load(self, name: str) -> Record:
        """Return a record by its name."""
        return load_record(self.folder / f"{name}.json")

    def metric(self, name: str, metric: str) -> float:
        """Return a figure of a record."""
        return float(self.load(name)["metrics"][metric])


def fill_tables(text: str, records: Records) -> str:
    """Return a text with its tables as the records have them."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]](records)}\n{found[3]}", text)


def name_tables(text: str) -> list[str]:
    """Return the names of the tables in a text."""
    return [found[2] for found in _BLOCK.finditer(text)]


def _demo(records: Records) -> str:
    judged, bench = records.load("demo-eval-onnx"), records.load("demo-bench-onnx")
    train = records.load("demo-train")
    return (
        f"*Predictions of the ONNX file that `make demo` writes, on generated images it was not "
        "trained on, drawn by the suite. The demo trains a quarter-width variant from scratch: AP "
        f"{judged['metrics']['ap']:.3f}, AP50 {judged['metrics']['ap50']:.3f} on "
        f"{judged['conditions']['val_images']} images, {bench['metrics']['latency_ms_p50']:.0f} ms "
        f"an image, {train['metrics']['train_seconds']:.0f} s of training ({_where(train)}; "
        "`reports/records/demo-*.json`).*"
    )


def _ssd(records: Records) -> str:
    name = "ssd_r34_bccd"
    train, judged = records.load(f"{name}-train"), records.load(f"{name}-eval-torch")
    proof = records.load(f"{name}-verify")["metrics"]
    rows = [
        ("training", _training(train), "`suite train ssd_r34_bccd`"),
        ("AP / AP50, PyTorch fp32", _ap(judged), "`suite eval CKPT.pth --bootstrap 1000`"),
        (
            "AP / AP50, ONNX Runtime",
            _ap(records.load(f"{name}-eval-onnx")),
            "`suite eval CKPT.onnx`",
        ),
        (
            "AP / AP50, exact published postprocess",
            _ap(records.load(f"{name}-eval-published-postprocess")),
            "`suite eval CKPT.pth --as-published`",
        ),
        ("parity", _parity(proof), "`suite verify CKPT.onnx --against CKPT.pth`"),
        *_speeds(records, name),
    ]
    return _table(("what", "figure", "command"), rows)


def _retinanet(records: Records) -> str:
    name = "retinanet_r18_bccd"
    rows = [
        ("training", _training(records.load(f"{name}-train"))),
        ("AP / AP50, PyTorch fp32", _ap(records.load(f"{name}-eval-torch"))),
        ("AP / AP50, ONNX Runtime", _ap(records.load(f"{name}-eval-onnx"))),
        (
            "AP / AP50, postprocess as mmdetection's",
            _ap(records.load(f"{name}-eval-published-postprocess")),
        ),
        ("parity", _parity(records.load(f"{name}-verify")["metrics"])),
        *(row[:2] for row in _speeds(records, name)),
    ]
    return _table(("what", "figure"), rows)


def _speeds(records: Records, name: str) -> list[tuple[str, str, str]]:
    """Return latency of the fp32 graph, and how fast the others are in turn with it."""
    infer = records.load(f"{name}-bench-onnx")
    metrics = infer["metrics"]
    rows = [
        (
            "latency p50, ONNX Runtime fp32, batch 1",
            f"{metrics['latency_ms_p50']:.0f} ms "
            f"({metrics['latency_ms_p50_low']:.0f} to {metrics['latency_ms_p50_high']:.0f}), "
            f"{metrics['images_per_second']:.1f} images/s, n = {infer['conditions']['n']}",
            "`suite bench infer CKPT.onnx --stable`",
        )
    ]
    for other, words, flag in (
        ("torch", "PyTorch fp32", "CKPT.pth"),
        ("int8", "int8, ONNX Runtime", "CKPT.int8.onnx"),
        ("openvino-bf16", "bf16, OpenVINO", "runtime=openvino,precision=bf16"),
    ):
        compared = records.load(f"{name}-compare-{other}")["metrics"]
        judged = records.load(f"{name}-eval-{other}")["metrics"]
        rows.append(
            (
                f"{words}: speed beside that, AP",
                f"{compared['ratio']:.2f} ({compared['ratio_low']:.2f} to "
                f"{compared['ratio_high']:.2f}), AP {judged['ap']:.3f}",
                f"`suite bench infer CKPT.onnx --vs {flag}`",
            )
        )
    return rows


def _training(record: Record) -> str:
    metrics, conditions = record["metrics"], record["conditions"]
    return (
        f"{metrics['train_seconds']:,.0f} s for {conditions['epochs']:g} epochs, "
        f"{metrics['images_per_second']:.2f} images/s (global, {conditions['precision']}, loader "
        "included)"
    )


def _ap(record: Record) -> str:
    metrics = record["metrics"]
    interval = ""
    if "ap_low" in metrics:
        interval = f" ({metrics['ap_low']:.3f} to {metrics['ap_high']:.3f})"
    return f"{metrics['ap']:.3f}{interval} / {metrics['ap50']:.3f}"


def _parity(metrics: dict[str, float]) -> str:
    return (
        f"logits within {metrics['logits']:.0e}, {metrics['paired']:,.0f} of "
        f"{metrics['detections']:,.0f} detections paired"
    )


def _where(record: Record) -> str:
    hardware, software = record["hardware"], record["software"]
    return (
        f"{hardware['device']}, {hardware['cores']} cores, torch {software['torch']}, onnxruntime "
        f"{software['onnxruntime']}, {record['created'].partition('T')[0]}, one run"
    )


def _table(titles: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    return tabulate(rows, headers=titles, tablefmt="pipe", disable_numparse=True)


TABLES: dict[str, Callable[[Records], str]] = {
    "demo": _demo,
    "ssd": _ssd,
    "retinanet": _retinanet,
}
