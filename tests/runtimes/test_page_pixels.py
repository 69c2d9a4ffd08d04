"""The page's own preparation of pictures, in Node, against that of training and prediction."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from suite.data.collating import collate
from suite.data.preparing import prepare_image
from suite.data.transforms import MEAN, STD, resize_image
from suite.deploy import web
from suite.recipe_sections import Resize
from suite.sizing import Sizing, build_sizing

pytestmark = pytest.mark.slow

SCRIPT = """
import fs from "node:fs";
import { prepare, resize } from "./detect.js";
const { cases, folder } = JSON.parse(fs.readFileSync(0, "utf8"));
for (const [number, { work, hw, to, model }] of cases.entries()) {
  const rgba = fs.readFileSync(`${folder}/${number}.rgba`);
  const made = work === "resize" ? { data: resize(rgba, hw, to), dims: [...to, 3] }
    : prepare(rgba, hw, model);
  fs.writeFileSync(`${folder}/${number}.out`, new Uint8Array(made.data.buffer));
  console.log(JSON.stringify(made.dims));
}
"""
STRETCH = build_sizing(Resize())
PAD = build_sizing(Resize(mode="pad", short_side=96, long_side=160))
FIXED = build_sizing(Resize(mode="fixed", short_side=96, long_side=160))
INTO = build_sizing(Resize(mode="pad", short_side=96, long_side=160), canvas_hw=(96, 128))
SIZES = [(480, 640), (77, 100), (1080, 1920), (300, 300), (2, 3), (3000, 7), (101, 99)]


READ = """
import fs from "node:fs";
import { readDetections } from "./detect.js";
const model = { input: { dtype: "uint8" }, class_names: ["ball", "brick"] };
for (const [count, labels] of JSON.parse(fs.readFileSync(0, "utf8"))) {
  const outputs = { num_dets: { data: [count].map(BigInt) }, labels: { data: labels.map(BigInt) },
    boxes: { data: new Float32Array(8).fill(3) }, scores: { data: new Float32Array(2) } };
  try {
    console.log(readDetections(outputs, [10, 10], model).map(({ name }) => name).join(" "));
  } catch (error) {
    console.log(error.message);
  }
}
"""


def run_node(folder: Path, images: list[NDArray[np.uint8]], cases: list[dict[str, Any]]) -> Any:
    for number, image in enumerate(images):
        alpha = np.full((*image.shape[:2], 1), 9, np.uint8)
        np.concatenate([image, alpha], axis=2).tofile(folder / f"{number}.rgba")
    lines = run_script(folder, SCRIPT, {"cases": cases, "folder": str(folder)})
    return [json.loads(line) for line in lines]


def run_script(folder: Path, script: str, told: Any) -> list[str]:
    """Run JavaScript beside the page's own and return the lines it prints."""
    if shutil.which("node") is None:
        pytest.fail("node is not installed: install Node.js 20 or newer for these tests")
    shutil.copy(Path(web.__file__).with_name("page") / "detect.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(script)
    done = subprocess.run(
        ["node", "run.js"],
        cwd=folder,
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def describe(sizing: Sizing, dtype: str = "float32") -> dict[str, Any]:
    fed = {"dtype": dtype, "scale": 1 / 255, "mean": MEAN.tolist(), "std": STD.tolist()}
    return {"input": fed, "sizing": dataclasses.asdict(sizing), "min_side": 32}


def draw_images() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in SIZES]
    # Black and white is where an overshoot of rounding would show.
    return [*noise, *(np.where(image > 127, 255, 0).astype(np.uint8) for image in noise[:3])]


def test_the_resize_is_that_of_training_in_every_byte(tmp_path: Path) -> None:
    images = draw_images()
    targets = [(300, 300)] * len(images) + [(96, 160)] * len(images)
    cases = [
        {"work": "resize", "hw": image.shape[:2], "to": to}
        for image, to in zip(images * 2, targets, strict=True)
    ]
    run_node(tmp_path, images * 2, cases)
    for number, (image, to) in enumerate(zip(images * 2, targets, strict=True)):
        expected = resize_image(image, to).permute(1, 2, 0).numpy()
        found = np.fromfile(tmp_path / f"{number}.out", np.uint8).reshape(expected.shape)
        assert (found == expected).all()
        # And torch's resize of floats, apart from the rounding to bytes.
        floats = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        smooth = torch.nn.functional.interpolate(floats, to, mode="bilinear", antialias=True)[0]
        assert np.abs(found - smooth.permute(1, 2, 0).numpy()).max() < 1.1


@pytest.mark.parametrize("sizing", [STRETCH, PAD, FIXED, INTO])
def test_the_networks_input_is_that_of_prediction(sizing: Sizing, tmp_path: Path) -> None:
    images = [image for image in draw_images() if max(image.shape) < 2000]
    cases = [{"hw": image.shape[:2], "model": describe(sizing)} for image in images]
    dims = run_node(tmp_path, images, cases)
    for number, image in enumerate(images):
        expected = collate([prepare_image(image, sizing)]).images.normalised().numpy()
        assert dims[number] == list(expected.shape)
        found = np.fromfile(tmp_path / f"{number}.out", np.float32).reshape(expected.shape)
        assert np.abs(found - expected).max() < 2e-6


def test_a_graph_that_prepares_images_gets_its_bytes(tmp_path: Path) -> None:
    (image,) = draw_images()[1:2]
    case = {"hw": image.shape[:2], "model": describe(STRETCH, "uint8")}
    assert run_node(tmp_path, [image], [case]) == [[1, *image.shape]]
    found = np.fromfile(tmp_path / "0.out", np.uint8).reshape(image.shape)
    assert (found == image).all()


def test_answers_that_no_detector_gives_are_refused(tmp_path: Path) -> None:
    said = run_script(
        tmp_path, READ, [(2, [0, 1]), (0, [9, 9]), (3, [0, 0]), (10**9, [0, 0]), (-1, [0, 0]),
                         (1, [1, 7]), (2, [1, 7]), (1, [-1, 0])],
    )  # fmt: skip
    assert said == [
        "ball brick",
        "",
        "The graph answers with 3 detections in 2 rows.",
        "The graph answers with 1000000000 detections in 2 rows.",
        "The graph answers with -1 detections in 2 rows.",
        "brick",
        "The graph answers with label 7, which is none of its classes.",
        "The graph answers with label -1, which is none of its classes.",
    ]
