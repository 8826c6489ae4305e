"""The shape of the tiny policies that tests train."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    hidden_size: int = 16
    intermediate_size: int = 24
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    max_position_embeddings: int = 64
