"""Attention to shared prefixes is attention to copies of them."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from si_dagster.engines.attention import SharedPrefix, attention_forward


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("row_prefix", [[0, 0, 1, 1], [0, 1, 1, 1, 3], [2]])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_attention_to_copies(group, row_prefix, padded):
    torch.manual_seed(0)
    heads, size, long, own, prefixes = 2, 8, 5, 3, 4
    rows = torch.tensor(row_prefix)
    keys, values = torch.randn(2, prefixes, heads, long, size)
    query = torch.randn(len(rows), heads * group, 1, size)
    key, value = torch.randn(2, len(rows), heads, own, size)
    held = torch.ones(prefixes, 1, long, dtype=torch.bool)
    held[0, 0, :2] = False
    prefix = SharedPrefix([keys], [values], held if padded else None, rows)
    layer = SimpleNamespace(layer_idx=0)
    output, _ = attention_forward(layer, query, key, value, None, shared_prefix=prefix)
    mask = torch.cat([held[rows], torch.ones(len(rows), 1, own, dtype=torch.bool)], dim=2)[:, None]
    expected = scaled_dot_product_attention(
        query,
        torch.cat([keys[rows], key], dim=2).repeat_interleave(group, 1),
        torch.cat([values[rows], value], dim=2).repeat_interleave(group, 1),
        attn_mask=mask if padded else None,
    )
    torch.testing.assert_close(output, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_prefixes_nobody_needs_are_dropped():
    keys, values = torch.randn(2, 6, 1, 4, 8)
    prefix = SharedPrefix([keys], [values], None, torch.arange(6))
    kept = prefix.select(torch.tensor([1, 1, 4]))
    assert kept.row_prefix.tolist() == [0, 0, 1]
    torch.testing.assert_close(kept.keys[0], keys[[1, 4]])
    most = prefix.select(torch.tensor([0, 1, 2, 3, 3]))
    assert most.keys[0] is keys
    assert most.row_prefix.tolist() == [0, 1, 2, 3, 3]
