"""The levels at which a network is cut into parts, which are quantized together or left in float.

They stand apart from what cuts (svq.nets.blocks, svq.analysis.layer_config): who only names them needs no torch.
"""

from __future__ import annotations

BLOCK_LEVELS = ("block", "layer")
PART_LEVELS = ("stage", *BLOCK_LEVELS)
