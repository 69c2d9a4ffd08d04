"""What a training run will ask of this machine: that of a recipe, or of any."""

from __future__ import annotations

from dataclasses import dataclass

from suite.doctor.checks import GIB
from suite.recipe import Recipe
from suite.run_folder import NUM_CHECKPOINTS_KEPT
from suite.sizing import build_sizing

NUM_CHECKPOINTS = NUM_CHECKPOINTS_KEPT + 1  # the one being written

_FLOAT32 = 4
# RetinaNet-R50, the largest detector of the shipped recipes: parameters and buffers, momentum.
_LARGEST_CHECKPOINT = _FLOAT32 * (37_968_692 + 53_263 + 37_743_348)
_DEFAULT_WORKERS = 2
_BATCHES_A_WORKER = 2  # torch's DataLoader loads so many ahead


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run asks for.

    Attributes:
        ranks: processes on this machine, one a device.
        num_ranks: on all machines together.
        workers: loader processes a rank.
        checkpoint_bytes: of one checkpoint.
        shared_bytes: of shared memory, for batches on their way.
        source: whose needs they are, for people.
    """

    ranks: int = 1
    num_ranks: int = 1
    workers: int = _DEFAULT_WORKERS
    checkpoint_bytes: int = _LARGEST_CHECKPOINT
    shared_bytes: int = GIB
    source: str = "one device"

    @property
    def spans_machines(self) -> bool:
        """Whether ranks on other machines take part."""
        return self.num_ranks > self.ranks


def measure_needs(recipe: Recipe, *, num_here: int, has_torch: bool) -> Needs:
    """Return what a recipe asks of this machine.

    Args:
        num_here: usable devices of the recipe's kind on this machine; 0: not known, so the machine
            is taken to have all that the recipe asks for.
        has_torch: without it, the checkpoint is taken to be that of the largest shipped detector.
    """
    ranks = min(recipe.devices, num_here or recipe.devices)
    return Needs(
        ranks=ranks,
        num_ranks=recipe.devices,
        workers=recipe.data.workers,
        checkpoint_bytes=_measure_checkpoint(recipe) if has_torch else _LARGEST_CHECKPOINT,
        shared_bytes=ranks * _measure_waiting(recipe),
        source=recipe.name,
    )


def _measure_checkpoint(recipe: Recipe) -> int:
    import torch

    from suite.checkpoint import build_recipe_detector

    with torch.device("meta"):
        detector = build_recipe_detector(recipe)
    weights = sum(tensor.nbytes for tensor in detector.state_dict().values())
    momentum = sum(p.nbytes for p in detector.parameters() if p.requires_grad)
    return int(momentum + weights * (1 if recipe.optimizer.ema_decay is None else 2))


def _measure_waiting(recipe: Recipe) -> int:
    """Return the bytes of the batches that one rank's loader processes have ready."""
    if recipe.data.workers == 0:
        return 0
    shape = recipe.resize.short_side, recipe.resize.long_side
    height, width = build_sizing(recipe.resize).canvas_hw(shape)
    batch = recipe.global_batch // recipe.devices * 3 * height * width  # uint8
    return batch * (_BATCHES_A_WORKER * recipe.data.workers + 1)
