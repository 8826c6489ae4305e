"""Drawing replies from a verifier policy, and drawing unreadable ones again where the study says so.

It does not read replies: the method says which are readable.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from si_dagster.core.fingerprint import derive_seed
from si_dagster.engines.base import Completion, Prompt, SamplingParams
from si_dagster.tasks.base import PromptStyle
from si_dagster.verification.base import Batch

REPLY_STOP: dict[PromptStyle, tuple[str, ...]] = {
    "text": ("\nQuestion:", "\nPuzzle:"),
    "chat": (),
    "pico": (),
}
"""Where a base model would go on to an example of its own; tuned and pico policies end their turn."""

REPLY_SAMPLING = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=256)
"""Temperature and top-p with which the paper samples; the length is ours."""

NUM_RESAMPLES = 3
"""How often `on_unparsed: resample` draws an unreadable reply again (ours)."""


def draw_replies(
    batch: Batch, prompts: Sequence[Prompt], n: int, readable: Callable[[Completion], bool]
) -> list[list[Completion]]:
    """Replies to each prompt; those that cannot be read are drawn again, up to `batch.num_resamples` times.

    What is still unreadable then is returned as it is. Each new draw depends on the seed, the key of its
    prompt, its number and the attempt alone, so neither chunks nor other replies change it.

    Args:
        batch: Engine, seed, style and sampling.
        prompts: With a key of its own each.
        n: Replies a prompt.
        readable: Whether a reply says something.
    """
    stop = REPLY_STOP[batch.style]
    sampling = replace(REPLY_SAMPLING, **batch.sampling, n=n, seed=batch.seed, stop=stop)
    if not prompts:
        return []
    drawn = [list(row) for row in batch.verifier.generate(prompts, sampling)]
    for attempt in range(1, batch.num_resamples + 1):
        places = [(i, j) for i, row in enumerate(drawn) for j, reply in enumerate(row) if not readable(reply)]
        if not places:
            break
        again = [Prompt(f"{prompts[i].key}/{j}", prompts[i].text) for i, j in places]
        anew = replace(sampling, n=1, seed=derive_seed(batch.seed, "resample", attempt))
        for (i, j), row in zip(places, batch.verifier.generate(again, anew), strict=True):
            drawn[i][j] = row[0]
    return drawn
