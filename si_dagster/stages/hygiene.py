"""Hygiene of one training set: whether evaluation prompts, or near copies of them, reached it.

It says what it found and removes nothing: tasks keep near-duplicates of evaluation rows out of training rows
when they read them, so a finding here is a fault of the data's, or evaluation text that the policy recites.
"""

from dataclasses import dataclass

import polars as pl

from si_dagster.tasks.hygiene import CONTAMINATION_NGRAM_SIZE, SIMILARITY, contaminated, near_duplicates


@dataclass(frozen=True)
class HygieneFindings:
    """What was found.

    Attributes:
        num_training_rows: Rows looked through.
        num_training_prompts: Their distinct prompts.
        num_eval_prompts: Evaluation prompts they were compared with.
        near_duplicate_prompts: Pairs (training prompt id, evaluation prompt id, Jaccard similarity of word
            5-grams) at or above `tasks.hygiene.SIMILARITY`.
        contaminated_rows: Ids of training rows whose completion repeats 13 words in a row of an evaluation
            prompt.
    """

    num_training_rows: int
    num_training_prompts: int
    num_eval_prompts: int
    near_duplicate_prompts: list[tuple[str, str, float]]
    contaminated_rows: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.near_duplicate_prompts and not self.contaminated_rows

    def told(self) -> str:
        """One sentence."""
        return (
            f"{len(self.near_duplicate_prompts)} of {self.num_training_prompts} training prompts nearly "
            f"repeat one of {self.num_eval_prompts} evaluation prompts (similarity {SIMILARITY} or more); "
            f"{len(self.contaminated_rows)} of {self.num_training_rows} kept completions repeat "
            f"{CONTAMINATION_NGRAM_SIZE} words in a row of one"
        )


def training_hygiene(
    filtered_set: pl.DataFrame, train_prompts: pl.DataFrame, eval_prompts: pl.DataFrame
) -> HygieneFindings:
    """Compare training rows with evaluation prompts.

    Args:
        filtered_set: Columns training_row_id, prompt_id, completion.
        train_prompts: Columns prompt_id, question; those of the filtered set are looked at.
        eval_prompts: Columns prompt_id, question.
    """
    trained = train_prompts.filter(pl.col("prompt_id").is_in(filtered_set["prompt_id"].unique().to_list()))
    ids, held = trained["prompt_id"].to_list(), eval_prompts["prompt_id"].to_list()
    questions = eval_prompts["question"].to_list()
    # Samples of a prompt repeat themselves: each distinct completion is looked through once.
    completions = filtered_set["completion"].unique(maintain_order=True).to_list()
    dirty = [completions[index] for index in contaminated(completions, questions)]
    return HygieneFindings(
        num_training_rows=filtered_set.height,
        num_training_prompts=len(ids),
        num_eval_prompts=len(held),
        near_duplicate_prompts=[
            (ids[pair.train], held[pair.eval], pair.similarity)
            for pair in near_duplicates(trained["question"].to_list(), questions)
        ],
        contaminated_rows=filtered_set.filter(pl.col("completion").is_in(dirty))["training_row_id"].to_list(),
    )
