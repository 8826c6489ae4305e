"""Chat models: prompts rendered by the model's own chat template; engines and training go on taking text.

The template comes from the tokenizer of the checkpoint. It adds no system message, switches no thinking mode
on or off, and checks no model for having been tuned: `prompt_style: chat` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from si_dagster.engines.base import Completion, Engine, Prompt, SamplingParams, Usage
from si_dagster.stages.base_checkpoint import CheckpointError
from si_dagster.tasks.prompts import Conversation


@dataclass(frozen=True)
class ChatTemplate:
    """How one model is spoken to.

    Attributes:
        tokenizer: A Hugging Face tokenizer with a chat template.
    """

    tokenizer: Any

    def render(self, prompt: str) -> str:
        """The text a model reads: all turns, then the beginning of its own; a plain text is one user turn.

        A beginning-of-sequence token that tokenizing adds anyway is left out, so that it stands there once.
        """
        turns = prompt.turns if isinstance(prompt, Conversation) else (prompt,)
        messages = [
            {"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)
        ]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        begins = self.tokenizer("")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        return text.removeprefix(self.tokenizer.bos_token) if begins else text


def load_chat_template(folder: Path, trust_remote_code: bool = False) -> ChatTemplate:
    """The chat template of a checkpoint.

    Raises:
        CheckpointError: If it has none.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.chat_template is None:
        raise CheckpointError(f"{folder}: its tokenizer has no chat template; use prompt_style: text")
    return ChatTemplate(tokenizer)


@dataclass(frozen=True)
class ChatEngine:
    """An engine that is asked in turns: every prompt goes through the template of the policy it holds."""

    engine: Engine
    template: ChatTemplate

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`."""
        rendered = [Prompt(prompt.key, self.template.render(prompt.text)) for prompt in prompts]
        return self.engine.generate(rendered, sampling)

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`; a label opens the model's turn, so no space comes before it."""
        opening = [label.lstrip() for label in labels]
        return self.engine.label_logprobs([self.template.render(prompt) for prompt in prompts], opening)

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`."""
        return self.engine.sequence_logprobs(
            [self.template.render(prompt) for prompt in prompts], completions
        )

    def usage(self) -> Usage:
        """See `Engine.usage`."""
        return self.engine.usage()

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()
