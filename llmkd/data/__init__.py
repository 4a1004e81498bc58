"""Examples, from rows to batches."""
