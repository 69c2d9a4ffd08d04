"""The verb `eval`: judge a checkpoint or a graph on the val split of a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from suite.checkpoint import load_checkpoint, recipe_of_checkpoint
from suite.data import build_workers, check_classes, load_split
from suite.data.sample import Dataset
from suite.device import Device
from suite.errors import UsageError
from suite.evaluation import detect_dataset
from suite.evaluation.analysis import ANALYSIS_PATH, write_analysis
from suite.evaluation.coco import Evaluation
from suite.evaluation.coco_files import load_ground_truth, load_results, write_results
from suite.evaluation.judging import DEFAULT_JUDGING, Judged, Judging, judge
from suite.files import file_sha256
from suite.graph_session import ORT, GraphRuntime
from suite.launch.ranks import Ranks
from suite.launch.worker import Patience, Worker
from suite.meeting import meet
from suite.progress import Progress
from suite.recipe import Recipe, list_shipped_recipes, load_recipe, recipe_digest
from suite.recipe_sections import Data
from suite.records import build_record, write_record
from suite.run_folder import create_run_folder, new_record_path, run_of_checkpoint
from suite.runtime import LoadedDetect, build_model_device, load_detect

RESULTS_PATH = Path("eval", "coco_instances_results.json")


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Where and how to evaluate.

    Attributes:
        recipe: whose val split and ids; None for the model's own.
        data: overrides the recipe's `data.root`.
        device: cpu, cuda, npu or auto.
        batch: images a call.
        as_published: postprocess a checkpoint exactly as the published code does.
        output: where the folder with results and record is made.
        strict_device: see `build_device`.
        runtime: what runs a graph.
        worker: which of the ranks that share the images this process is; None: the only one.
        judging: how the results are judged.
    """

    recipe: Recipe | None = None
    data: str | None = None
    device: str = "auto"
    batch: int = 8
    as_published: bool = False
    output: Path = Path("runs")
    strict_device: bool = False
    runtime: GraphRuntime = ORT
    worker: Worker | None = None
    judging: Judging = DEFAULT_JUDGING


def evaluate_model(model: Path, request: EvaluationRequest) -> tuple[Evaluation, Path | None]:
    """Evaluate a model; return the figures and the folder of results and record.

    Only the main rank makes a folder; the others return None for it.

    Raises:
        InputError: the model or an image is unusable.
        UsageError: the model's classes are not those of the data, or no recipe is known.
        RankLost: another rank went or no longer answers.
    """
    index = 0 if request.worker is None else request.worker.local_rank
    device = build_model_device(model, request.device, index=index, strict=request.strict_device)
    loaded = load_detect(
        model, device=device, runtime=request.runtime, as_published=request.as_published
    )
    facts = {key: str(value)[:12] for key, value in loaded.subject.items() if "sha256" in key}
    with meet(request.worker, device, facts=facts, patience=Patience()) as ranks:
        return _evaluate_on(model, request, device=device, loaded=loaded, ranks=ranks)


def _evaluate_on(
    model: Path, request: EvaluationRequest, *, device: Device, loaded: LoadedDetect, ranks: Ranks
) -> tuple[Evaluation, Path | None]:
    recipe = request.recipe or find_recipe_of(model)
    section = recipe.data if request.data is None else replace(recipe.data, root=request.data)
    dataset = load_split(section, "val")
    ranks.require_equal({"data": dataset.digest[:12]})
    require_same_classes(loaded, dataset, model)
    progress = Progress(len(dataset.samples), label="evaluate")
    results = detect_dataset(
        loaded.detect,
        dataset,
        sizing=loaded.sizing,
        batch_size=request.batch,
        workers=build_workers(section),
        progress=partial(_advance, progress, ranks),
        ranks=ranks,
    )
    progress.close()
    judged: list[Judged] = []

    def judge_here() -> dict[str, object]:
        judged.append(judge(dataset.coco, results, request.judging))
        return asdict(judged[0].evaluation)

    evaluation = Evaluation(**ranks.share(judge_here))
    if not ranks.is_main:
        return evaluation, None
    folder = create_run_folder(request.output, f"eval-{model.stem}")
    write_results(results, folder / RESULTS_PATH)
    _write_analysis(judged[0], folder)
    record = build_record(
        "eval",
        metrics=judged[0].metrics(),
        subject={**loaded.subject, **_describe_data(section, dataset, loaded, recipe)},
        conditions={
            **device.describe(),
            "precision": loaded.precision,
            "runtime": loaded.runtime,
            "batch": request.batch,
            "postprocess": "published" if request.as_published else "exported",
            "devices": ranks.num_ranks,
            "image_hw": list(loaded.sizing.nominal_hw),
            "val_images": len(dataset.samples),
            **judged[0].conditions(),
            **_describe_training(loaded, recipe),
        },
    )
    write_record(record, folder / "record.json")
    return evaluation, folder


def _advance(progress: Progress, ranks: Ranks, done: int) -> None:
    progress.update(done)
    ranks.mark(0)


def _write_analysis(judged: Judged, folder: Path) -> None:
    if judged.analysis is not None:
        write_analysis(judged.analysis, folder / ANALYSIS_PATH)


def evaluate_results(
    results: Path, annotations: Path, *, output: Path, judging: Judging = DEFAULT_JUDGING
) -> tuple[Evaluation, Path]:
    """Judge saved COCO results; return the figures and the folder of the record.

    Raises:
        InputError: a file is unusable, or the results are not of these annotations.
    """
    judged = judge(load_ground_truth(annotations), load_results(results), judging)
    record = build_record(
        "eval",
        metrics=judged.metrics(),
        subject={"results_sha256": file_sha256(results), "val_digest": file_sha256(annotations)},
        conditions={"val_images": judged.evaluation.num_images, **judged.conditions()},
    )
    path = new_record_path(output, f"eval-{results.stem}")
    _write_analysis(judged, path.parent)
    write_record(record, path)
    return judged.evaluation, path.parent


def find_recipe_of(model: Path) -> Recipe:
    """Return the recipe a model was trained by: in a checkpoint, or in the run folder around it.

    Raises:
        InputError: the checkpoint is unusable.
        UsageError: a graph outside of a run folder says nothing about data.
    """
    if model.suffix != ".onnx":
        return recipe_of_checkpoint(load_checkpoint(model), source=str(model))
    run = run_of_checkpoint(model)
    if run is not None and (run / "recipe.yaml").is_file():
        return load_recipe(str(run / "recipe.yaml"))
    shipped = ", ".join(list_shipped_recipes())
    raise UsageError(f"{model}: which data? Pass --recipe with a file or one of: {shipped}")


def require_same_classes(loaded: LoadedDetect, dataset: Dataset, model: Path) -> None:
    """Raise UsageError where a model detects other classes than a data set has."""
    check_classes(dataset, num_classes=len(loaded.class_names), source=str(model))
    if loaded.class_names != dataset.class_names:
        raise UsageError(
            f"{model}: detects {', '.join(loaded.class_names[:6])}; "
            f"the annotations have {', '.join(dataset.class_names[:6])}"
        )


def _describe_data(
    section: Data, dataset: Dataset, loaded: LoadedDetect, recipe: Recipe
) -> dict[str, object]:
    facts: dict[str, object] = {"dataset": section.name, "val_digest": dataset.digest}
    return facts | {"reference": list(recipe.reference)} if _is_own(recipe, loaded) else facts


def _describe_training(loaded: LoadedDetect, recipe: Recipe) -> dict[str, float]:
    """Return the epochs behind a model, where its own recipe says how many images each has."""
    epoch_images = recipe.schedule.nominal_epoch_images
    if epoch_images is None or not _is_own(recipe, loaded):
        return {}
    return {"epochs": loaded.subject["step"] * recipe.global_batch / epoch_images}


def _is_own(recipe: Recipe, loaded: LoadedDetect) -> bool:
    """Whether the model was trained by this recipe; any other one tells only about the data."""
    return bool(loaded.subject["recipe_digest"] == recipe_digest(recipe))
