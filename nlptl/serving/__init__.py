"""What a trained model is used for: predict and evaluate."""
