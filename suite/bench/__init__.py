"""Measurements of speed: the verbs `bench infer` and `bench train`."""
