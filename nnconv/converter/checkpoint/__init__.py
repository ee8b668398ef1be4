"""Weights apart from their net: .npz, .pb and .safetensors, one module each; `files` opens any of
them."""
