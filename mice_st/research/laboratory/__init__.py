"""Experiments that lead from a cross-encoder to MICE: the ladder of masks, lossless conversion, baselines, trimming."""
