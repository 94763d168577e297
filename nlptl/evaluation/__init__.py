"""Plain numbers in, plain numbers out; knows no torch."""
