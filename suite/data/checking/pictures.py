"""The image pass: every image file decoded as training decodes it, in processes if wanted.

Files of one size are also digested, so that equal ones are found whatever they are called.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from suite.data.checking.findings import Detail, Findings, Severity
from suite.data.checking.inspecting import Picture, Seen, Task, inspect
from suite.data.sample import ImageFile

_CHUNK: Final = 16  # images a worker takes at a time
_STOPS: Final = "training and evaluation stop at this image"
_RULES: Final[dict[str, tuple[Severity, str]]] = {
    "missing_image": ("error", _STOPS),
    "unreadable_image": ("error", _STOPS),
    "truncated_image": ("error", _STOPS),
    "bomb_image": ("error", _STOPS),
    "undecodable_image": ("error", _STOPS),
    "crashing_image": ("error", "training and evaluation end with their process"),
    "size_mismatch": ("error", _STOPS),
    "exif_as_seen": ("note", "the annotated size is that of the turned image: it is turned"),
    "exif_as_stored": ("note", "the annotated size is that of the stored image: it is not turned"),
    "exif_unclear": (
        "warning",
        "turned; the annotated size fits both, and boxes made on the stored image would be wrong",
    ),
}
Progress = Callable[[int, int], None]


@dataclass
class Unusable:
    """Pictures that a corrected set leaves out, as (split, image id).

    Attributes:
        damaged: training would stop at them.
        repeated: their content is that of an earlier picture of the split.
        in_val: of the split train; their content is in val too.
    """

    damaged: set[tuple[str, int]] = field(default_factory=set)
    repeated: set[tuple[str, int]] = field(default_factory=set)
    in_val: set[tuple[str, int]] = field(default_factory=set)


def check_pictures(
    pictures: Sequence[Picture],
    *,
    decode: bool,
    workers: int,
    findings: Findings,
    progress: Progress | None = None,
) -> Unusable:
    """Look at every picture of all splits.

    Args:
        decode: False: only whether the files exist and which are equal.
        workers: processes; 0: this one.
        progress: called with (pictures done, pictures).
    """
    unusable = Unusable()
    by_digest: dict[bytes, list[Picture]] = {}
    tasks = _plan(pictures, decode=decode)
    for done, (task, seen) in enumerate(_run(tasks, workers=workers), start=1):
        picture = task.picture
        if seen.rule:
            severity, consequence = _RULES[seen.rule]
            detail = Detail(str(picture.file), f"image {picture.image_id}", seen.value)
            findings.add(severity, seen.rule, detail, split=picture.split, consequence=consequence)
            if severity == "error":
                unusable.damaged.add((picture.split, picture.image_id))
        if seen.digest:
            by_digest.setdefault(seen.digest, []).append(picture)
        if progress:
            progress(done, len(tasks))
    for group in by_digest.values():
        _tell_same(group, findings)
        _leave_out_same(group, unusable)
    return unusable


def _plan(pictures: Sequence[Picture], *, decode: bool) -> list[Task]:
    """Return what to do: only pictures of equal size in bytes can be equal."""
    sizes = [_find_num_bytes(picture.file) for picture in pictures]
    uses = Counter(sizes)
    return [
        Task(picture, decode, digest=size is not None and uses[size] > 1)
        for picture, size in zip(pictures, sizes, strict=True)
    ]


def _find_num_bytes(file: ImageFile) -> int | None:
    if file.length is not None:
        return file.length
    try:
        return file.path.stat().st_size
    except OSError:  # it will be found missing
        return None


def _run(tasks: Sequence[Task], *, workers: int) -> Iterator[tuple[Task, Seen]]:
    if not workers:
        for task in tasks:
            yield task, inspect(task)
        return
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    while chunks:
        num_done = 0
        try:
            for chunk, results in _run_chunks(chunks, workers=workers):
                num_done += 1
                yield from zip(chunk, results, strict=True)
        except BrokenProcessPool:
            # Whichever image it was: the chunks after the last whole one are looked at again, the
            # first of them image by image.
            for task in chunks[num_done]:
                yield task, _inspect_alone(task)
            num_done += 1
        chunks = chunks[num_done:]


def _run_chunks(
    chunks: Sequence[Sequence[Task]], *, workers: int
) -> Iterator[tuple[Sequence[Task], list[Seen]]]:
    """Yield the chunks with their results in order, a few of them ahead in the workers."""
    with ExitStack() as stack:
        pool = stack.enter_context(_new_pool(workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        waiting: list[tuple[Sequence[Task], Future[list[Seen]]]] = []
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_inspect_all, chunk)))
            if len(waiting) > 4 * workers:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _inspect_all(tasks: Sequence[Task]) -> list[Seen]:
    return [inspect(task) for task in tasks]


def _inspect_alone(task: Task) -> Seen:
    """Look at a picture in a process of its own, which it may take down."""
    with _new_pool(1) as pool:
        try:
            return pool.submit(inspect, task).result()
        except BrokenProcessPool:
            return Seen("crashing_image", "its decoder ended the process", b"")


def _new_pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the parent may hold threads and locks of its libraries.
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        # Ctrl-C reaches every process of a terminal; the parent ends the others.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )


def _tell_same(group: Sequence[Picture], findings: Findings) -> None:
    """Tell of pictures with equal content, which are in the order of the splits."""
    first_of: dict[str, Picture] = {}
    for picture in group:
        first = first_of.setdefault(picture.split, picture)
        if first.file != picture.file:  # two entries of one file were told of before
            value = f"same content as image {first.image_id}, {first.file}"
            findings.add(
                "warning",
                "same_content",
                Detail(str(picture.file), f"image {picture.image_id}", value),
                split=picture.split,
                consequence="trained on and evaluated more than once",
            )
    if len(first_of) > 1:
        train, val = list(first_of.values())[:2]
        findings.add(
            "warning",
            "in_both_splits",
            Detail(str(val.file), f"image {val.image_id}", f"image {train.image_id}, {train.file}"),
            split="",
            consequence="evaluation would measure memory of training images",
        )


def _leave_out_same(group: Sequence[Picture], unusable: Unusable) -> None:
    """Choose among pictures with equal content; damaged ones go anyway, so none goes for them."""
    ids_of: dict[str, list[tuple[str, int]]] = {}
    for picture in group:
        key = (picture.split, picture.image_id)
        if key not in unusable.damaged:
            ids_of.setdefault(picture.split, []).append(key)
    for keys in ids_of.values():
        unusable.repeated.update(keys[1:])
    if len(ids_of) > 1:
        unusable.in_val.update(next(iter(ids_of.values())))
