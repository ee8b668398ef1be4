"""How operators are computed, written once for all devices; nothing is imported here.

language.py says what a kernel is, llvm.py and opencl.py print it, schedule.py chooses tiles,
arrays.py describes memory; the families (conv, winograd, gemm, pool, fold, elementwise, ...) each
give kernels for given sizes, with a packing function where weights need an order of their own.
They stand for values that lie plain or in blocks of channels; samples/ has the families of training
on processors, groups/ those of graphics cards. devices/jit.py compiles kernels, devices/jobs.py
runs tables of them.
"""
