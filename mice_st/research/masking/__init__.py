"""Masked cross-encoders: any cross-encoder, run or trained with some of its interactions removed."""

from mice_st.research.masking.cross_encoder import MaskedCrossEncoder, MaskedTransformer
from mice_st.research.masking.patches import SEGMENTS, Patch, make_preset, readable_segments

__all__ = ["SEGMENTS", "MaskedCrossEncoder", "MaskedTransformer", "Patch", "make_preset", "readable_segments"]
