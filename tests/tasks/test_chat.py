"""Chat models: turns through a template, the beginning token once, the same text in every stage."""

import pickle

import numpy as np
import pytest

from si_dagster.engines.base import Completion, Prompt, SamplingParams, Usage
from si_dagster.stages.base_checkpoint import CheckpointError
from si_dagster.stages.chat import ChatEngine, ChatTemplate, load_chat_template
from si_dagster.stages.prompts import prompt_table
from si_dagster.tasks.base import TaskRow
from si_dagster.tasks.catalogue import load_task
from si_dagster.tasks.prompts import Conversation
from si_dagster.training.pico import character_tokenizer

TEMPLATE = (
    "{{ bos_token or '' }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ROW = TaskRow("p", "eval", "How many zorbs?", "7")


def tokenizer(begins: bool):
    """One whose template writes a beginning token; with `begins`, tokenizing adds one as well."""
    from tokenizers.processors import TemplateProcessing

    made = character_tokenizer()
    made.add_special_tokens({"bos_token": "<s>"})
    if begins:
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    made.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize("begins", [True, False])
def test_the_beginning_token_stands_there_once(begins):
    chat = tokenizer(begins)
    text = ChatTemplate(chat).render(Conversation(["2 + 2?", "4", "2 + 3?"]))
    assert text.removeprefix("<s>") == "[user]2 + 2?<eos>[assistant]4<eos>[user]2 + 3?<eos>[assistant]"
    assert chat(text)["input_ids"].count(chat.bos_token_id) == 1


def test_plain_text_is_one_turn_of_the_user():
    assert ChatTemplate(tokenizer(True)).render("Puzzle:\n1_") == "[user]Puzzle:\n1_<eos>[assistant]"


def test_a_conversation_survives_a_pipe():
    found = pickle.loads(pickle.dumps(Conversation(["a", "b", "c"])))
    assert (found.turns, str(found)) == (("a", "b", "c"), "user:\na\n\nassistant:\nb\n\nuser:\nc")


@pytest.mark.parametrize("name", ["gsm8k", "math", "mbpp", "nq_open", "svamp"])
def test_few_shot_examples_are_turns(name):
    task = load_task(name, {})
    asked = task.generation_prompt(ROW, "chat")
    assert isinstance(asked, Conversation)
    assert len(asked.turns) == 9
    for example, shown, said in zip(task.examples, asked.turns[::2], asked.turns[1::2], strict=False):
        assert example.question in shown
        assert said in (example.solution, f"```python\n{example.solution}\n```")
    assert "How many zorbs?" in asked.turns[-1]
    judged = task.verification_prompt(ROW, "7 <|im_end|>", "multiple_choice", "chat")
    assert judged.turns[1::2] == ("correct", "incorrect", "correct", "incorrect")
    assert "<|im_end|>" not in judged.turns[-1]
    assert len(task.comparison_prompt(ROW, "7", "8", "chat").turns) == 9


class _Recorder:
    """An engine that keeps what it was asked."""

    def generate(self, prompts, sampling):
        self.asked = [prompt.text for prompt in prompts]
        return [[Completion("x", 1, -1.0, "stop")] * sampling.n for _ in prompts]

    def label_logprobs(self, prompts, labels):
        self.asked, self.labels = list(prompts), list(labels)
        return np.zeros((len(prompts), len(labels)))

    def sequence_logprobs(self, prompts, completions):
        self.asked = list(prompts)
        return np.zeros(len(prompts)), np.ones(len(prompts), dtype=np.int64)

    def usage(self):
        return Usage()

    def close(self):
        pass


def test_generation_and_likelihood_read_the_very_text_that_is_stored_and_trained_on(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": "How much is 3 and 4?", "a": "7"}\n{"q": "How much is 5 and 9?", "a": "14"}')
    columns = {"question": "q", "reference": "a"}
    task = load_task("custom", {"path": str(file), "grader": "number", "columns": columns})
    template = ChatTemplate(tokenizer(True))
    split = "eval" if task.all_rows("eval") else "train"
    stored = prompt_table(task, split, 1, 0, "chat", render=template.render)["prompt"].to_list()
    row = task.rows(split, 1, 0)[0]
    inner = _Recorder()
    engine = ChatEngine(inner, template)
    engine.generate([Prompt("p", task.generation_prompt(row, "chat"))], SamplingParams())
    assert inner.asked == stored
    engine.sequence_logprobs([task.generation_prompt(row, "chat")], ["7"])
    assert inner.asked == stored
    engine.label_logprobs([task.generation_prompt(row, "chat")], [" correct", " incorrect"])
    assert (inner.asked, inner.labels) == (stored, ["correct", "incorrect"])


def test_a_model_without_a_template_is_refused(tmp_path):
    character_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no chat template; use prompt_style: text"):
        load_chat_template(tmp_path)
