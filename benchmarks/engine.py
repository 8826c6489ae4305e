"""Completions a second: TransformersEngine beside `model.generate`, on one policy in one run.

    python benchmarks/engine.py --hidden-size 128 --num-prompts 512 --n 16

The policy is a pico Llama with random weights (the worst case: its samples agree on nothing); a trained one
is given with --checkpoint. `model.generate` gets what its users would give it: the prompts sorted by length,
padded on the left, `num_return_sequences=n`, in batches of as many rows. Runs alternate, the best of each
counts. It does not measure start-up, GPUs, or servers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from si_dagster.engines.base import Prompt, SamplingParams
from si_dagster.engines.transformers import TransformersEngine
from si_dagster.training.pico import character_tokenizer, new_policy


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--num-hidden-layers", type=int, default=4)
    parser.add_argument("--num-prompts", type=int, default=256)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=17)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-batch-rows", type=int, default=1024)
    parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def random_policy(folder: Path, hidden_size: int, num_hidden_layers: int) -> Path:
    tokenizer = character_tokenizer()
    shape: Any = SimpleNamespace(
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    new_policy(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sudoku_prompts(count: int) -> list[str]:
    cells = np.random.default_rng(0).choice(list("1234_"), (count, 16))
    return [f"?{''.join(row)}A" for row in cells]


def by_generate(checkpoint: Path, prompts: list[str], arguments: argparse.Namespace) -> Callable[[], int]:
    """Draw with `model.generate`; returns the number of tokens drawn."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    rows = max(1, arguments.max_batch_rows // arguments.n)

    def draw() -> int:
        drawn = 0
        for start in range(0, len(prompts), rows):
            batch = tokenizer(prompts[start : start + rows], return_tensors="pt", padding=True)
            tokens = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                do_sample=True,
                temperature=arguments.temperature,
                top_p=arguments.top_p,
                top_k=0,
                num_return_sequences=arguments.n,
                max_new_tokens=arguments.max_tokens,
            )[:, batch.input_ids.shape[1] :]
            texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
            drawn += sum(map(len, texts))
        return drawn

    return draw


def by_engine(checkpoint: Path, prompts: list[str], arguments: argparse.Namespace) -> Callable[[], int]:
    """Draw with the engine; returns the number of tokens drawn."""
    engine = TransformersEngine(checkpoint, device="cpu", max_batch_rows=arguments.max_batch_rows)
    sampling = SamplingParams(
        n=arguments.n,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_tokens=arguments.max_tokens,
    )
    keyed = [Prompt(str(index), text) for index, text in enumerate(prompts)]
    return lambda: sum(c.num_tokens for row in engine.generate(keyed, sampling) for c in row)


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.num_threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or random_policy(
            Path(folder), arguments.hidden_size, arguments.num_hidden_layers
        )
        prompts = sudoku_prompts(arguments.num_prompts)
        contenders = {
            "TransformersEngine": by_engine(checkpoint, prompts, arguments),
            "model.generate": by_generate(checkpoint, prompts, arguments),
        }
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(arguments.repeats):
            for name, draw in contenders.items():
                started = time.perf_counter()
                draw()
                best[name] = min(best[name], time.perf_counter() - started)
    count = arguments.num_prompts * arguments.n
    for name, seconds in best.items():
        print(f"{name:20} {seconds:8.2f} s  {count / seconds:10.0f} completions/s")
    print(f"ratio {best['model.generate'] / best['TransformersEngine']:.2f}")


if __name__ == "__main__":
    main()
