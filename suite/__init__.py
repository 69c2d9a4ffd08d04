"""Train, export, verify, measure and compare object detectors on Ascend NPUs, CUDA GPUs and CPUs."""

__version__ = "0.1.0"
