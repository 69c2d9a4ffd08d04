"""`suite weights import`: weights that others trained, brought under our names and layouts.

Each source has a module that says what becomes of its keys; `translate` does it and keeps the
account. Nothing is written unless every key of the file and every weight of ours is accounted for.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from suite.checkpoint import build_recipe_detector, write_checkpoint
from suite.errors import SuiteError, UsageError
from suite.files import replacing
from suite.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from suite.recipe_sections import NAME_LIMIT, RetinaNetVariant
from suite.zoo.mlperf_ssd import plan_mlperf_ssd
from suite.zoo.mmdet import plan_mmdet
from suite.zoo.plan import BackbonePlan, DetectorPlan, Options, Plan
from suite.zoo.resnets import backbone_state
from suite.zoo.state_file import read_state_file
from suite.zoo.tensor_bundle import open_bundle
from suite.zoo.tf_resnet34 import plan_tf_resnet34
from suite.zoo.torchvision import plan_torchvision
from suite.zoo.translate import Account, Mismatch, batch_norm_rewrite, format_account, translate

__all__ = ["Account", "Imported", "Mismatch", "Options", "format_account", "import_weights"]

Source = Literal["torchvision", "mmdet", "mlperf-ssd", "tf-resnet34"]
_PLANNERS = {
    "torchvision": plan_torchvision,
    "mmdet": plan_mmdet,
    "mlperf-ssd": plan_mlperf_ssd,
}


class Imported(NamedTuple):
    """A finished import.

    Attributes:
        path: the file written.
        kind: what it is: weights for `detector.backbone_weights`, or a checkpoint.
        account: what became of every key.
    """

    path: Path
    kind: Literal["backbone", "detector"]
    account: Account

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        account = asdict(self.account)
        for key in ("taken", "ignored"):
            account[key] = [row._asdict() for row in getattr(self.account, key)]
        return {"output": str(self.path), "kind": self.kind, **account}


def import_weights(
    path: Path, *, source: Source, output: Path, options: Options, force: bool = False
) -> Imported:
    """Translate a file of weights and write the result, all or nothing.

    Args:
        path: the file; for TensorFlow the name of a checkpoint.
        source: whose it is.
        output: the file to write.
        options: what the file does not say of itself.
        force: whether an existing file is replaced.

    Raises:
        InputError: the file is damaged, hostile, or not what the source writes (`Mismatch`).
        UsageError: an option is missing or does not go with the file, or the output exists.
        SuiteError: the output cannot be written.
    """
    _check_options(source, options)
    if output.exists() and not force:
        raise UsageError(f"{output}: exists; choose another name or pass --force")
    plan = _build_plan(path, source, options)
    if isinstance(plan.target, BackbonePlan):
        _check_backbone_options(path, options)
        weights, account = _translate(plan, backbone_state(plan.target), path, options)
        _write_backbone(weights, output)
        return Imported(output, "backbone", account)
    recipe = _build_recipe(plan.target, options, output)
    with torch.device("meta"):
        wanted = build_recipe_detector(recipe).state_dict()
    weights, account = _translate(plan, wanted, path, options)
    account.notes.extend(_note_variant(recipe.detector.variant))
    write_checkpoint(_build_state(weights, recipe, plan.target), output)
    return Imported(output, "detector", account)


def _check_options(source: Source, options: Options) -> None:
    eps = options.batch_norm_eps
    if eps is not None and not 0 <= eps < 1:  # not a number is outside too
        raise UsageError(f"--batch-norm-eps {eps}: expected a number from 0 to below 1")
    if options.style == "caffe" and source != "mmdet":
        raise UsageError("--style caffe: only --from mmdet has models of that style")


def _check_backbone_options(path: Path, options: Options) -> None:
    for flag, value in (("--recipe", options.recipe), ("--annotations", options.annotations)):
        if value is not None:
            raise UsageError(
                f"{flag} {value}: {path} is a backbone, which has no recipe and no classes; "
                "leave it out"
            )


def _build_plan(path: Path, source: Source, options: Options) -> Plan:
    if source == "tf-resnet34":
        return plan_tf_resnet34(open_bundle(path))
    return _PLANNERS[source](read_state_file(path), options)


def _translate(
    plan: Plan, wanted: dict[str, Tensor], path: Path, options: Options
) -> tuple[dict[str, Tensor], Account]:
    rewrites = plan.translation.rewrites + batch_norm_rewrite(wanted, options.batch_norm_eps)
    translation = replace(plan.translation, rewrites=rewrites)
    weights, account = translate(plan.theirs, translation, wanted=wanted, source=path)
    account.notes.extend(plan.notes)
    return weights, account


def _build_recipe(target: DetectorPlan, options: Options, output: Path) -> Recipe:
    """Return the recipe that the checkpoint holds: the base one, with the detector of the file."""
    plain = recipe_to_dict(load_recipe(options.recipe or target.base_recipe))
    if NAME_LIMIT.holds(output.stem):
        plain["name"] = output.stem
    # Published figures of the base recipe are of other weights.
    plain["reference"] = []
    plain["detector"] |= {
        "num_classes": len(target.classes.names),
        "backbone_weights": None,
        "weights": None,
        "width": 1.0,
        "padding": "torch",
        **target.detector,
    }
    if options.recipe is None:
        plain["static_shapes"] = False  # of the device that the base recipe is for
        for section, fields in target.others.items():
            plain[section] |= fields
    return recipe_from_dict(plain, source=f"the recipe of {output}")


def _note_variant(variant: RetinaNetVariant) -> list[str]:
    """Return what a recipe has to say to train on from the detector, where it is not the usual."""
    usual = asdict(RetinaNetVariant())
    flags = [
        f"--set detector.variant.{key}={str(value).lower()}"
        for key, value in asdict(variant).items()
        if value != usual[key]
    ]
    return [f"to train on from it: {' '.join(flags)}"] if flags else []


def _build_state(
    weights: dict[str, Tensor], recipe: Recipe, target: DetectorPlan
) -> dict[str, Any]:
    return {
        "step": 0,
        "weights": weights,
        "ema": None,
        "optimizer": {},
        "scaler": {},
        "events": {},
        "recipe": recipe_to_dict(recipe),
        "class_names": list(target.classes.names),
        "category_ids": list(target.classes.ids),
        "data_digest": "",
    }


def _write_backbone(weights: dict[str, Tensor], path: Path) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(weights, file)
    except (OSError, RuntimeError) as error:  # torch gives the latter, and no reason
        reason = error.strerror if isinstance(error, OSError) else "no space left, or a limit"
        raise SuiteError(f"{path}: cannot be written ({reason})") from error
