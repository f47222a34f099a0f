"""Compares compositions with dense decoding where kernels round differently: the numeric contract of docs/lossless.md.

`python -m bench.divergence` runs it. `recording` decodes and keeps logits, `kernel_error` measures what kernels err by,
`distribution` says which tokens were within reach at a position, `contract` judges.
"""
