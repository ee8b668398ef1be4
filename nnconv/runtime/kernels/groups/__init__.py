"""Kernels for graphics cards: a work-item a result, or a group that shares local memory."""
