"""The gradients of ZeRO 1 and 2 in a few kernels and messages: their sums over ranks, and their norm."""
