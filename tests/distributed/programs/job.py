"""One of two ranks that do the parts of a training job; writes what it saw.

Arguments: a JSON file with `recipes` (name -> dotted keys of the demo recipe), `ports` (one for
each of them) and `folder`, of the answers. The environment says which rank this is.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.structures import Detections, Images
from suite.data.loading import EvaluationSet, iterate_evaluation
from suite.data.sample import DecodedImage
from suite.data.workers import Workers
from suite.errors import InputError
from suite.evaluation import evaluate
from suite.launch.ranks import Ranks
from suite.launch.starter import recognise
from suite.launch.worker import Worker
from suite.recipe import load_recipe
from suite.runtime import Detect, postprocess_parameters, torch_detect
from suite.training.bad_samples import BadSamples
from suite.training.job import Job, build_trainee, cached, open_batches, opened_job

NUM_RANKS = 2
BAD_LIMITS = (1, 0.15)  # of 16 images; three are bad
_ALONE = Workers(num=0)


def find_gradients(job: Job, *, rank: int) -> dict[str, Tensor]:
    """Return the gradients of the first step; those of one rank of two where the job has one."""
    batches = open_batches(replace(job, ranks=pretend(rank)), first_step=0)
    with closing(batches):
        batch = next(batches)
    detector, learner, _ = build_trainee(job)
    torch.stack(list(learner(batch).values())).sum().backward()
    return {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


def pretend(rank: int) -> Ranks:
    """Ranks that only say which samples are whose."""
    ranks = Ranks()
    ranks.rank, ranks.num_ranks = rank, NUM_RANKS
    return ranks


def judge(job: Job, detect: Detect) -> dict[str, Any]:
    """Return the twelve numbers and all detections."""
    evaluation, results = evaluate(
        detect,
        job.val_set,
        sizing=job.sizing,
        batch_size=2,
        workers=_ALONE,
        ranks=job.ranks,
    )
    return {"numbers": evaluation.numbers(), "results": results}


def fresh_detect(job: Job) -> Detect:
    """A detector as it is before training; the same on every rank."""
    detector, _, _ = build_trainee(job)
    parameters = replace(postprocess_parameters(job.recipe), score_threshold=0.01)
    return torch_detect(detector.eval(), parameters, job.device)


def knowing_detect(job: Job) -> Detect:
    """A detector that knows the images: it finds most objects, some not quite and some twice."""
    known = {}
    for batch in iterate_evaluation(
        EvaluationSet(job.val_set.samples, job.sizing), batch_size=1, workers=_ALONE
    ):
        known[batch.images.pixels[0].numpy().tobytes()] = batch.image_ids[0]
    sample_of = {sample.image_id: sample for sample in job.val_set.samples}

    def detect(images: Images) -> list[Detections]:
        return [find(sample_of[known[pixels.numpy().tobytes()]]) for pixels in images.pixels]

    def find(sample: Any) -> Detections:
        noise = torch.Generator().manual_seed(sample.image_id)
        boxes = torch.from_numpy(sample.boxes_xyxy).repeat(2, 1)[1:]
        moved = boxes + torch.randn(boxes.shape, generator=noise) * 4
        scores = torch.rand(len(boxes), generator=noise).sort(descending=True).values
        return Detections(moved, scores, torch.from_numpy(sample.labels).repeat(2)[1:])

    return detect


def look_at_cache(job: Job) -> dict[str, Any]:
    """Return the files of the job's cache, those that are there afterwards, and some pixels."""
    with cached(job) as ready:
        images = [sample.image for sample in ready.samples]
        paths = {str(image.path) for image in images if isinstance(image, DecodedImage)}
        pixels = sum_pixels(ready)
    job.ranks.wait_for_all()
    after = [path for path in sorted(paths) if Path(path).exists()]
    return {"paths": sorted(paths), "pixels": pixels, "after": after}


def sum_pixels(job: Job) -> float:
    """Return the sum over the first batch."""
    with closing(open_batches(job, first_step=0)) as batches:
        return float(next(batches).images.pixels.double().sum())


def count_bad_samples(job: Job, *, limit: float) -> dict[str, Any]:
    """Return the bad samples that this rank has found by itself, and those of all."""
    said: list[str] = []
    bad = BadSamples(limit=limit, num_samples=len(job.samples), say=said.append, ranks=job.ranks)
    own: list[int] = []
    refused = None
    with closing(bad.watch(open_batches(job, first_step=0))) as batches:
        try:
            for batch in batches:
                own += [sample.image_id for sample in batch.bad_samples]
                bad.settle()
        except InputError as error:
            refused = str(error)
    return {"own": sorted(set(own)), "all": bad.state(), "said": said, "refused": refused}


def observe(name: str, job: Job, folder: Path) -> dict[str, Any]:
    if name == "bad":
        seen = {str(limit): count_bad_samples(job, limit=limit) for limit in BAD_LIMITS}
        return seen | {"known": judge(job, knowing_detect(job))}
    seen: dict[str, Any] = {"fresh": judge(job, fresh_detect(job))}
    gradients = find_gradients(job, rank=job.ranks.rank)
    torch.save(gradients, folder / f"{name}-{job.ranks.rank}.pth")
    seen["known"] = judge(job, knowing_detect(job))
    seen["cache"] = look_at_cache(job)
    return seen


def main(request: dict[str, Any]) -> None:
    worker = recognise(os.environ, num_ranks=NUM_RANKS)
    assert isinstance(worker, Worker)
    folder = Path(request["folder"])
    for (name, overrides), port in zip(request["recipes"].items(), request["ports"], strict=True):
        recipe = load_recipe("demo", overrides)
        with opened_job(recipe, replace(worker, master_port=port)) as job:
            seen = observe(name, job, folder)
        (folder / f"{name}-{worker.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
