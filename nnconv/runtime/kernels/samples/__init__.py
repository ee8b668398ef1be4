"""Kernels of training on processors: the lanes of a vector are samples (lanes.py)."""
