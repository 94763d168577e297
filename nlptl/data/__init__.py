"""From a file to batches; knows no model."""
