"""Settings that make the demo recipe a run of seconds; tests add what differs for them."""

from __future__ import annotations

# With 8 images: 2 a step, 2 epochs: 8 steps, a checkpoint after every second one.
SMALL = {
    "detector.width": "0.125",
    "global_batch": "2",
    "schedule.base_batch": "2",
    "schedule.base_lr": "0.002",
    "schedule.epochs": "2",
    "schedule.decay_epochs": "2",
    "schedule.warmup_epochs": "0.5",
    "checkpoint_every_epochs": "0.5",
    "log_every_steps": "1",
    "precision": "fp32",
    "data.workers": "0",
    "device": "cpu",
}
# What goes on top for a RetinaNet, but for the milestones: images grouped by orientation, so that
# batches differ in size; steps instead of a cosine.
RETINANET = {
    "detector.name": "retinanet_r18_fpn",
    "resize.mode": "pad",
    "resize.short_side": "96",
    "resize.long_side": "160",
    "schedule.warmup_start": "0.1",
    "schedule.decay_epochs": "null",
    "schedule.final_lr_factor": "null",
}
