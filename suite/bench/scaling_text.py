"""The answer of `bench scaling` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from suite.bench.scaling import UNVERIFIED, Row, Scaling


def format_scaling(scaling: Scaling) -> str:
    """Render the answer as text."""
    megabytes = sum(scaling.buckets) / 1e6
    lines = [
        f"{scaling.recipe}, {scaling.rank_batch} images a device; {UNVERIFIED}",
        f"{scaling.trained_parameters:,} trained parameters: {megabytes:.1f} MB of gradients in "
        f"{len(scaling.buckets)} buckets",
        f"one device: step {scaling.step_ms:.1f} ms, of it backward {scaling.backward_ms:.1f} ms",
        "",
        _format_rows(scaling.rows),
    ]
    if scaling.check is not None:
        lines += ["", *_format_check(scaling.check)]
    if scaling.notes:
        lines += ["", *scaling.notes]
    return "\n".join(lines)


def _format_rows(rows: Sequence[Row]) -> str:
    table = [
        (
            f"{row.devices:,}",
            f"{row.machines:,}",
            f"{row.global_batch:,}",
            f"{row.learning_rate:.4g}",
            "?" if row.steps_per_epoch is None else f"{row.steps_per_epoch:,}",
            f"{row.all_reduce_ms:.1f}",
            f"{row.exposed_ms:.2f}",
            f"{row.step_ms:.1f}",
            f"{row.images_per_second:,.1f}",
            f"{row.efficiency:.3f}",
        )
        for row in rows
    ]
    headers = ["devices", "machines", "batch", "peak\nlr", "steps/\nepoch", "all-reduce\nms",
               "exposed\nms", "step\nms", "images/s", "effi-\nciency"]  # fmt: skip
    return tabulate(table, headers, disable_numparse=True, colalign=["right"] * len(headers))


def _format_check(check: dict[str, Any]) -> list[str]:
    lines = [
        f"measured on {check['devices']}: {check['images_per_second']:g} images/s, step "
        f"{check['step_ms']:.1f} ms, efficiency {check['efficiency']:.3f}; the model says "
        f"{check['model_step_ms']:.1f} ms",
    ]
    overlapped = check["inside_gb_per_second_overlapped"]
    after = check["inside_gb_per_second_after_backward"]
    lost = check["lost_ms"]
    lines += [f"- explained by links of {overlapped:.2f} GB/s"] if overlapped else []
    lines += [f"- or {after:.2f} GB/s, with the all-reduce after backward"] if after else []
    lines += [f"- or {lost:.1f} ms lost in every step"] if lost is not None else []
    return lines
