"""teaching_set: the few verifications of a dear teacher that a student learns from."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.teaching_set import chosen_generations, num_comparisons, teaching_table
from si_dagster.verification.catalogue import load_method

CARD = """What a student learns from: responses of the base policy to training prompts, as many as the budget
says, with the teacher's scores.

No ground truth is involved: the choice is by seed, the scores are the teacher's.

Reads: prompts, generations, verifications of the teacher (training split, iteration 0).

Writes: generation_id, prompt_id, sample_index, question, teacher, num_verifications, proxy_utility.
"""

COSTS = ("flops", "engine_seconds", "prompt_tokens", "completion_tokens")


def materialize(run: StageRun) -> dict[str, Any]:
    """Choose, and set the teacher's scores beside the questions."""
    spec, generations, verifications = run.verification, run.read("generations"), run.read("verifications")
    chosen = chosen_generations(generations, **run.plan.lesson(spec))
    table = teaching_table(
        run.task,
        run.plan.model_of(run.node.address).style,
        load_method(spec.method),
        run.read("prompts"),
        generations.filter(generations["generation_id"].is_in(chosen)),
        verifications,
        run.chat_template("tokenizer").render if "tokenizer" in run.node.inputs else str,
    )
    run.write_whole(table)
    num_asked = int(verifications["generation_id"].is_in(chosen).sum())
    return {
        "num_teacher_verifications": num_asked,
        "num_stored_verifications": verifications.height,
        "num_unparsed_responses": len(chosen) - table.height,
        "num_prompts": table["prompt_id"].n_unique(),
        "num_comparisons": num_comparisons(table),
        **_cost_of_teaching(run, num_asked / max(verifications.height, 1)),
    }


def _cost_of_teaching(run: StageRun, share: float) -> dict[str, float]:
    """The teacher's stored cost, by the share of its verifications that is used; none where none was told."""
    told = run.artifact("verifications").manifest.metadata
    return {f"teacher_{name}": told[name] * share for name in COSTS if told.get(name) is not None}
