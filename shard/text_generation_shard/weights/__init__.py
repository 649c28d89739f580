"""Weights: fetching checkpoints, converting them, and reading them lazily, each rank its part."""
