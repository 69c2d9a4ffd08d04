"""From a checkpoint to a verified graph."""
