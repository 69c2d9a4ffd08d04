"""The answers of `bench train` as text of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Any

from tabulate import tabulate

from suite.bench.breakdown import PARTS
from suite.bench.stable import tell_winner
from suite.records import Record

_WIDTH = 80
_RATES = {
    "end to end": "images_per_second",
    "model alone": "images_per_second_model_only",
    "loader alone": "images_per_second_loader_only",
}
_VERSUS = {label: _RATES[label] for label in ("end to end", "model alone")}


def format_training(record: Record) -> str:
    """Render the roofs, what follows from them, and the parts of a step."""
    metrics, conditions = record["metrics"], record["conditions"]
    finding, *others = record["notes"]
    blocks = [
        _fill(_title(record)),
        _format_rates(metrics, conditions["devices"]),
        _fill(finding),
        _format_parts(metrics),
        "\n".join(_fill(line) for line in _details(metrics, conditions)),
        *(_fill(note) for note in others),
    ]
    return "\n\n".join(blocks)


def format_versus(record: Record) -> str:
    """Render the rates of two recipes and which is faster."""
    metrics, subject = record["metrics"], record["subject"]
    names = {
        f"{side} {label}": f"{side}_{name}" for side in "ab" for label, name in _VERSUS.items()
    }
    rows = [(label, f"{metrics[n]:,.2f}", _bounds(metrics, n)) for label, n in names.items()]
    headers = ["images/s", "median", "95 %"]
    sides = [f"{side}: {_describe_side(subject[side])}" for side in "ab"]
    return "\n\n".join(
        [
            "\n".join(map(_fill, sides)),
            tabulate(rows, headers, disable_numparse=True, colalign=_right(headers)),
            *map(_fill, record["notes"]),
            _fill(_judge(record)),
        ]
    )


def _judge(record: Record) -> str:
    metrics, winner = record["metrics"], record["conditions"]["winner"]
    return (
        f"{tell_winner(winner)}; end to end b has {metrics['ratio']:.3f} of the rate of a "
        f"({metrics['ratio_low']:.3f} to {metrics['ratio_high']:.3f}), the model alone "
        f"{metrics['model_only_ratio']:.3f} ({metrics['model_only_ratio_low']:.3f} to "
        f"{metrics['model_only_ratio_high']:.3f})"
    )


def _describe_side(side: dict[str, Any]) -> str:
    conditions = side["conditions"]
    return (
        f"{side['recipe']} ({side['recipe_digest'][:12]}), {conditions['name']}, "
        f"{conditions['precision']}, {conditions['batch']} images a step; {conditions['window']}"
    )


def _title(record: Record) -> str:
    conditions = record["conditions"]
    return (
        f"{record['subject']['recipe']}: {conditions['devices']} x {conditions['name']}, "
        f"{conditions['precision']}, {conditions['batch']} images a device and step; "
        f"{conditions['window']}"
    )


def _format_rates(metrics: dict[str, Any], devices: int) -> str:
    rows = [
        [label, f"{metrics[name]:,.2f}", f"{metrics[name] / devices:,.2f}", _bounds(metrics, name)]
        for label, name in _RATES.items()
    ]
    headers = ["images/s", "global", "per device", "95 % of global"]
    if not any(bounds for *_, bounds in rows):
        rows, headers = [row[:3] for row in rows], headers[:3]
    return tabulate(rows, headers, disable_numparse=True, colalign=_right(headers))


def _bounds(metrics: dict[str, Any], name: str) -> str:
    if f"{name}_low" not in metrics:
        return ""
    return f"{metrics[f'{name}_low']:,.2f} to {metrics[f'{name}_high']:,.2f}"


def _format_parts(metrics: dict[str, Any]) -> str:
    whole = metrics["marked_step_ms"]
    spent = {part: metrics[f"{part}_ms"] for part in PARTS}
    rows = [(part, f"{ms:,.2f}", f"{ms / whole:.1%}") for part, ms in spent.items()]
    rows.append(("step, marked", f"{whole:,.2f}", "100.0%"))
    headers = ["part", "ms", "share"]
    return tabulate(rows, headers, disable_numparse=True, colalign=_right(headers))


def _details(metrics: dict[str, Any], conditions: dict[str, Any]) -> list[str]:
    p50, p90, p99 = (metrics[f"step_ms_p{q}"] for q in (50, 90, 99))
    joules = metrics["energy_j_per_image"]
    return [
        f"step end to end: p50 {p50:,.1f} ms, p90 {p90:,.1f}, p99 {p99:,.1f}",
        f"padding: {metrics['padding_share']:.1%} of the pixels",
        f"peak memory: {metrics['peak_memory_bytes'] / 1e9:,.2f} GB "
        f"({conditions['peak_memory_of']})",
        _utilisation(metrics, conditions),
        "energy: not measured" if joules is None else f"energy: {joules:,.2f} J an image",
    ]


def _utilisation(metrics: dict[str, Any], conditions: dict[str, Any]) -> str:
    ceiling = (
        f"{metrics['ceiling_tflops']:,.3g} TFLOP/s measured here ({conditions['ceiling']}, "
        f"{conditions['precision']})"
    )
    share = metrics["model_flop_utilisation"]
    if share is None:
        return f"model FLOP utilisation: not measured; ceiling {ceiling}"
    return (
        f"model FLOP utilisation: {share:.1%} "
        f"({metrics['model_flop_utilisation_model_only']:.1%} model alone) of {ceiling}; "
        f"{metrics['flops_per_image'] / 1e9:,.2f} GFLOP an image"
    )


def _fill(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _right(headers: list[str]) -> list[str]:
    return ["left"] + ["right"] * (len(headers) - 1)
