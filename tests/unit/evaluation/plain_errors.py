"""TIDE's split, confusion and calibration once more: slow, plain, one box after the other.

Written from the papers and from pycocotools' matching, without a look at arrays; what
`suite.evaluation` computes for all images at once is held against it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

Entry = dict[str, Any]
WITHIN_SIZES = 1e10


def iou(found: Entry, truth: Entry) -> float:
    fx, fy, fw, fh = map(float, found["bbox"])
    tx, ty, tw, th = map(float, truth["bbox"])
    width = min(fx + fw, tx + tw) - max(fx, tx)
    height = min(fy + fh, ty + th) - max(fy, ty)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (fw * fh if truth["iscrowd"] else fw * fh + tw * th - shared)


def is_ignored(truth: Entry) -> bool:
    area = truth.get("area", truth["bbox"][2] * truth["bbox"][3])
    return bool(truth["iscrowd"]) or not 0 <= area <= WITHIN_SIZES


def match(found: list[Entry], truth: list[Entry]) -> dict[int, Entry]:
    """Match in the order given at IoU 0.5; by id of the detection."""
    taken: set[int] = set()
    matches = {}
    candidates = sorted(truth, key=is_ignored)
    for entry in found:
        best, best_iou = None, 0.5
        for box in candidates:
            if box["id"] in taken and not box["iscrowd"]:
                continue
            if best is not None and not is_ignored(best) and is_ignored(box):
                break
            if iou(entry, box) >= best_iou:
                best, best_iou = box, iou(entry, box)
        if best is not None:
            matches[entry["id"]] = best
            taken.add(best["id"])
    return matches


class Plain:
    """One set, matched at IoU 0.5; detections carry the position in the results as id."""

    def __init__(self, truth: Entry, results: list[Entry]) -> None:
        self.truth = truth["annotations"]
        self.classes = sorted(category["id"] for category in truth["categories"])
        numbered = [{**entry, "id": number} for number, entry in enumerate(results)]
        self.found = sorted(
            numbered, key=lambda d: (d["image_id"], d["category_id"], -d["score"], d["id"])
        )
        self.matches: dict[int, Entry] = {}
        for image in {entry["id"] for entry in truth["images"]}:
            for category in self.classes:
                place = {"image_id": image, "category_id": category}
                self.matches |= match(self.at(self.found, place), self.at(self.truth, place))
        self.right = {number: box for number, box in self.matches.items() if not is_ignored(box)}
        self.left_out = self.matches.keys() - self.right.keys()
        self.kinds, self.targets = self.sort_errors()
        covered = {box["id"] for box in (*self.right.values(), *self.targets.values())}
        self.missed = [
            box for box in self.truth if not is_ignored(box) and box["id"] not in covered
        ]

    @staticmethod
    def at(entries: list[Entry], place: Entry) -> list[Entry]:
        return [e for e in entries if all(e[key] == value for key, value in place.items())]

    def sort_errors(self) -> tuple[dict[int, str], dict[int, Entry]]:
        kinds: dict[int, str] = {}
        targets: dict[int, Entry] = {}
        for entry in self.found:
            if entry["id"] in self.matches:
                continue
            around = [
                box
                for box in self.at(self.truth, {"image_id": entry["image_id"]})
                if not is_ignored(box)
            ]
            category = entry["category_id"]
            same = [box for box in around if box["category_id"] == category]
            other = [box for box in around if box["category_id"] != category]
            most = {
                name: max((iou(entry, box) for box in boxes), default=0.0)
                for name, boxes in (("same", same), ("other", other))
            }
            if 0.1 <= most["same"] < 0.5:
                kinds[entry["id"]] = "localisation"
                targets[entry["id"]] = max(same, key=lambda box: iou(entry, box))
            elif most["other"] >= 0.5:
                kinds[entry["id"]] = "classification"
                targets[entry["id"]] = max(other, key=lambda box: iou(entry, box))
            elif most["same"] >= 0.5:
                kinds[entry["id"]] = "duplicate"
            elif max(most.values()) < 0.1:
                kinds[entry["id"]] = "background"
            else:
                kinds[entry["id"]] = "both"
        return kinds, targets

    def num_truth(self) -> Counter[int]:
        return Counter(box["category_id"] for box in self.truth if not is_ignored(box))

    def ap50(
        self, labels: dict[int, int], right: set[int], gone: set[int], num_truth: Counter[int]
    ) -> float:
        """AP over the classes with true boxes, with other labels, hits, detections and counts."""
        scores = []
        for category in sorted(self.num_truth()):
            ranked = sorted(
                (
                    entry
                    for entry in self.found
                    if labels.get(entry["id"], entry["category_id"]) == category
                    and entry["id"] not in gone
                    and entry["id"] not in self.left_out
                ),
                key=lambda entry: (-entry["score"], entry["image_id"]),
            )
            scores.append(interpolate([e["id"] in right for e in ranked], num_truth[category]))
        return sum(scores) / len(scores)

    def lost(self) -> dict[str, float]:
        """AP at IoU 0.5 that mending each kind wins; all scores distinct or tied alike."""
        right, num_truth = set(self.right), self.num_truth()
        now = self.ap50({}, right, set(), num_truth)
        wrong = set(self.kinds)
        won = {}
        for kind in ("duplicate", "background", "both"):
            gone = {number for number in wrong if self.kinds[number] == kind}
            won[kind] = self.ap50({}, right, gone, num_truth)
        for kind in ("localisation", "classification"):
            winners = self.pick_winners(kind)
            gone = {n for n in wrong if self.kinds[n] == kind and n not in winners}
            labels = {number: self.targets[number]["category_id"] for number in winners}
            won[kind] = self.ap50(labels, right | winners, gone, num_truth)
        asked = num_truth - Counter(box["category_id"] for box in self.missed)
        won["missed"] = self.ap50({}, right, set(), asked)
        won["false_positive"] = self.ap50({}, right, wrong, num_truth)
        found = Counter(box["category_id"] for box in self.right.values())
        won["false_negative"] = self.ap50({}, right, set(), found)
        return {kind: value - now for kind, value in won.items()}

    def pick_winners(self, kind: str) -> set[int]:
        winners: dict[int, Entry] = {}
        found = {box["id"] for box in self.right.values()}
        for entry in self.found:
            target = self.targets.get(entry["id"], {"id": None})["id"]
            if self.kinds.get(entry["id"]) != kind or target in found:
                continue
            if target not in winners or entry["score"] > winners[target]["score"]:
                winners[target] = entry
        return {entry["id"] for entry in winners.values()}

    def confusions(self, min_score: float) -> Counter[tuple[int | None, int | None]]:
        """Count (class of the true box, class of the detection); None is the background."""
        cells: Counter[tuple[int | None, int | None]] = Counter()
        for image in {entry["image_id"] for entry in (*self.truth, *self.found)}:
            boxes = self.at(self.truth, {"image_id": image})
            taken: set[int] = set()
            shown = [e for e in self.at(self.found, {"image_id": image}) if e["score"] >= min_score]
            for entry in sorted(shown, key=lambda e: -e["score"]):
                free = [b for b in boxes if not is_ignored(b) and b["id"] not in taken]
                # The last of two that overlap alike, as in COCO's matching.
                best = max(reversed(free), key=lambda box: iou(entry, box), default=None)
                if best is not None and iou(entry, best) >= 0.5:
                    taken.add(best["id"])
                    cells[best["category_id"], entry["category_id"]] += 1
                elif not self.is_excused(entry, boxes):
                    cells[None, entry["category_id"]] += 1
            for box in boxes:
                if not is_ignored(box) and box["id"] not in taken:
                    cells[box["category_id"], None] += 1
        return cells

    @staticmethod
    def is_excused(entry: Entry, boxes: list[Entry]) -> bool:
        return any(
            box["iscrowd"] and box["category_id"] == entry["category_id"] and iou(entry, box) >= 0.5
            for box in boxes
        )


def interpolate(hits: list[bool], num_truth: int) -> float:
    """Mean over 101 recalls of the best precision from there on; 0 where nothing is asked for."""
    points = []
    num_right = 0
    for position, hit in enumerate(hits, start=1):
        num_right += hit
        points.append((num_right / max(num_truth, 1), num_right / position))
    total = 0.0
    for step in range(101):
        recall = step / 100 - 1e-12
        total += max((p for r, p in points if r >= recall), default=0.0)
    return total / 101
