"""Measurements of speed: the verbs `bench infer`, `bench train` and `bench data`."""
