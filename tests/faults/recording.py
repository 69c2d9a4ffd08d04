"""`suite` that also writes down which images each step was made on.

A line a step and rank: step, rank and image ids, in a file beside the run folders.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from suite.cli import main
from suite.training import loop

train_step = loop.train_step


def train_step_and_record(batch: Any, learner: Any, updater: Any) -> Any:
    made = train_step(batch, learner, updater)
    entry = {"step": updater.num_steps_done, "rank": RANK, "images": batch.image_ids}
    with RECORD.open("a") as file:
        file.write(json.dumps(entry) + "\n")  # one write: ranks do not mix their lines
    return made


if __name__ == "__main__":
    RANK = int(os.environ.get("RANK", "0"))
    RECORD = Path(sys.argv[sys.argv.index("--output") + 1], "images.jsonl")
    loop.train_step = train_step_and_record
    main()
