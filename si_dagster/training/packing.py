"""Laying several rows into one without their seeing each other: the layout, and the proof for a model.

Attention keeps rows apart by positions that restart. Not every architecture and attention does so, and
what does not is refused: a leak would change what is learned and nothing would show it.
"""

from typing import Any

PROBE = (list(range(3, 11)), list(range(20, 26)))
"""Token ids of two short rows."""

LARGEST_DIFFERENCE = 1e-3
"""In logits, between a row alone and packed: rounding in float32 stays a hundred times below."""


def packed(lengths: list[int], capacity: int) -> list[list[int]]:
    """Indices of rows laid into lines of at most `capacity` tokens, first fit, longest first.

    Examples:
        >>> packed([2, 5, 3], 5)
        [[1], [2, 0]]
    """
    lines: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((i for i, free in enumerate(room) if free >= lengths[index]), None)
        if line is None:
            lines.append([])
            room.append(capacity)
            line = len(lines) - 1
        lines[line].append(index)
        room[line] -= lengths[index]
    return lines


def refuse_leaks(model: Any) -> None:
    """Raise a ValueError where a packed row's logits are not those of the row alone."""
    import torch

    first, second = (torch.tensor([[i % model.config.vocab_size for i in ids]]) for ids in PROBE)
    device = next(model.parameters()).device
    positions = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])])[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        both = {"input_ids": torch.cat([first, second], 1), "position_ids": positions}
        together = model(**{name: ids.to(device) for name, ids in both.items()}, use_cache=False).logits
        alone = model(input_ids=second.to(device), use_cache=False).logits
    model.train(training)
    difference = (together[:, first.shape[1] :].float() - alone.float()).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"packing leaks across examples in {type(model).__name__} with attention "
            f"{model.config._attn_implementation!r} (logits differ by {difference:.2g}): set the trainer's "
            "packing to false"
        )
