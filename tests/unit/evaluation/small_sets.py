"""Small ground truths and results with all that makes evaluations differ, drawn by hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# Of COCO's sizes 32^2 and 96^2, and next to them; 1e10 is the largest that counts at all.
_AREAS = (-1.0, 0.0, 1023.99, 1024.0, 1024.01, 9216.0, 9216.01, 1e10, 1.1e10)
_SCORES = (0.0, 0.25, 0.3, 0.5, 0.5, 0.9, 1.0)  # few, so that many are equal

# On a coarse grid, so that boxes coincide and IoU falls on thresholds; sides of 0 included.
_boxes = st.tuples(
    st.sampled_from([0, 10, 20, -5.5]),
    st.sampled_from([0, 10, 20, 40]),
    st.sampled_from([0, 10, 16, 20, 32, 96, 100]),
    st.sampled_from([10, 15, 20, 32, 96, 100]),
).map(list)


@st.composite
def small_sets(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw a ground truth and results of at most 3 images and 3 classes; ids may start at 0."""
    image_ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    category_ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    places = {
        "image_id": st.sampled_from(image_ids),
        "category_id": st.sampled_from(category_ids),
        "bbox": _boxes,
    }
    annotation = st.fixed_dictionaries(
        {**places, "iscrowd": st.sampled_from([0, 0, 0, 1])},
        optional={"area": st.sampled_from(_AREAS)},
    )
    result = st.fixed_dictionaries({**places, "score": st.sampled_from(_SCORES)})
    annotations = draw(st.lists(annotation, max_size=8))
    truth = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": number, "name": f"class {number}"} for number in category_ids],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations)],
    }
    return truth, draw(st.lists(result, max_size=14))
