"""What is trained; knows no training loop."""
