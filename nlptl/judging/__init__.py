"""What comes after training: compare, explain, report."""
