"""Train, export, verify, measure and compare object detectors on Ascend NPUs, GPUs and CPUs."""

__version__ = "0.1.0"
