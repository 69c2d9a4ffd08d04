"""Measurements of speed: the verbs `bench infer`, `train`, `device`, `data` and `scaling`."""
