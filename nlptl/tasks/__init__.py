"""One file per kind of target: how targets are read, the loss of each example, the scores, the predictions."""
