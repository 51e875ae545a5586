"""The benchmark: methods side by side on the same support draws, features and metrics."""
