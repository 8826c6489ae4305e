"""The Study: one YAML file that says everything which changes the numbers of a run, and nothing else.

Plain data with validation. It does not say where things run: engine, device, batch sizes and folders are
resources, so that the same study has the same fingerprint on a laptop and on a cluster. It does not load
models or data; what needs them (a missing data file, a missing checkpoint) is found when a stage opens them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from si_dagster.assignments import assignment

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SELF = "self"
BASE = "base"
CHEAP = "cheap"
"""The verification method whose verifier is distilled from another verification of the study."""
DEFAULT_KS = (1, 2, 4, 8, 16, 32, 64, 128)


class StudyError(ValueError):
    """A study that cannot be read; the message names file, field, what was found and what is allowed."""


class Spec(BaseModel):
    """Base of all parts of a study: unknown fields are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """YAML reads `yes` and `on` as true, and Python takes true for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError(f"should be a number, found {str(value).lower()}")
        return value


class TaskSpec(Spec):
    """One task of the study."""

    name: str
    """Name in the task catalogue (`si-dagster tasks` lists them)."""
    options: dict[str, Any] = {}
    """Options of that task, for example `num_blanks` of sudoku4 or `path` of a local data file."""


class PretrainRecipe(Spec):
    """A pico policy pre-trained from scratch, on synthetic text that teaches both roles."""

    hidden_size: int = Field(default=128, ge=8)
    num_hidden_layers: int = Field(default=4, ge=1)
    num_attention_heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=384, ge=8)
    max_position_embeddings: int = Field(default=256, ge=32)
    max_steps: int = Field(default=500, ge=1)
    """Optimiser steps."""
    per_device_train_batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    """AdamW's, for embeddings and norms."""
    matrix_learning_rate: float = Field(default=0.02, gt=0)
    """Muon's, for the hidden matrices."""
    warmup_steps: int = Field(default=50, ge=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    verification_fraction: float = Field(default=0.7, ge=0, le=1)
    """Share of pre-training examples that teach verification."""
    demonstration_error_rate: float = Field(default=0.0, ge=0, lt=1)
    """Share of worked answers in the later pre-training text that are wrong, as text in the wild is. Verdicts
    are always right. A policy of such text knows more than it says, which self-improvement lives on."""
    clean_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, from the first, whose worked answers are all right."""
    group_by_length: bool = False
    """Batch examples of like length together, within windows of 16 batches: less padding where methods of
    verification have texts of unlike length."""

    def recipe_fields(self) -> dict[str, Any]:
        """What changes the weights: all fields, `group_by_length` where it is on."""
        return self.model_dump(mode="json", exclude=set() if self.group_by_length else {"group_by_length"})

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 2 x num_attention_heads "
                f"({2 * self.num_attention_heads})"
            )
        return self


class ModelSpec(Spec):
    """One policy family of the study: where f_0 comes from."""

    name: str
    pretrain: PretrainRecipe | None = None
    """Train the base here, from scratch. Exactly one of `pretrain` and `path`."""
    path: str | None = None
    """Hugging Face id or local folder with safetensors weights."""
    revision: str | None = None
    """Commit of a Hugging Face id; without it the newest, whose bytes are recorded all the same."""
    prompt_style: Literal["pico", "text", "chat"] | None = None
    """How prompts are written; default `pico` for `pretrain`, `text` for `path`. `chat` goes through the chat
    template of the model, few-shot examples as turns."""
    family: str = ""
    """Models of one family lie on one line of the scaling analysis; default: `pico`, or the letters that the
    name begins with."""
    pretraining_flops: float | None = Field(default=None, gt=0)
    """What pre-training a `path` took, about 6 x parameters x tokens; its place in the scaling analysis."""
    trust_remote_code: bool = False
    """Run Python code that comes with a checkpoint. Off unless you have read that code."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.pretrain is None) == (self.path is None):
            raise ValueError(
                "give exactly one of `pretrain` (a recipe) and `path` (a Hugging Face id or folder)"
            )
        if self.prompt_style == "chat" and self.path is None:
            raise ValueError("prompt_style: chat takes the chat template of a model given by `path`")
        if self.revision is not None and self.path is None:
            raise ValueError("`revision` goes with `path`")
        if self.pretraining_flops is not None and self.path is None:
            raise ValueError("`pretraining_flops` goes with `path`: those of `pretrain` are counted")
        return self

    @property
    def family_name(self) -> str:
        """The family, its default resolved.

        Examples:
            >>> ModelSpec(name="qwen-0.5b", path="x").family_name
            'qwen'
        """
        letters = re.match(r"[A-Za-z]*", self.name)
        return self.family or ("pico" if self.pretrain else letters[0] if letters else "") or self.name

    @property
    def style(self) -> Literal["pico", "text", "chat"]:
        """The prompt style, its default resolved."""
        return self.prompt_style or ("pico" if self.pretrain else "text")


class GenerationSpec(Spec):
    """How the generator samples; vLLM's SamplingParams names."""

    n: int = Field(default=16, ge=1)
    """Generations a prompt."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()
    """Stop strings beside those of the task."""
    seed: int | None = None
    """Sampling seed; default: the seed of the study."""


class OptimisationSpec(Spec):
    """How weights are fitted; TRL's SFTConfig and DPOConfig names."""

    learning_rate: float = Field(default=3e-4, gt=0)
    num_train_epochs: float = Field(default=1.0, gt=0)
    max_steps: int = Field(default=-1, ge=-1)
    """Optimiser steps; -1: as many as `num_train_epochs` needs."""
    per_device_train_batch_size: int = Field(default=64, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=1024, ge=8)


class StudentSpec(OptimisationSpec):
    """How the student of a cheap verification is fitted to the teacher's score differences."""

    num_train_epochs: float = Field(default=8.0, gt=0)
    """Passes over the few verifications that the budget buys."""
    per_device_train_batch_size: int = Field(default=16, ge=1)
    """Prompts a step, each with all its compared responses."""

    def recipe_fields(self) -> dict[str, Any]:
        """What changes the weights that come out."""
        return self.model_dump(mode="json", exclude={"num_train_epochs"} if self.max_steps > 0 else set())


class VerificationSpec(Spec):
    """One verification: a method carried out by a verifier policy."""

    method: str = "multiple_choice"
    """Name in the catalogue of verification methods."""
    name: str = ""
    """How the study refers to it; default: the method, for `cheap` with `-of-<teacher>`, and with
    `-by-<verifier>` where that is not `self`."""
    verifier: str = SELF
    """`self` (the generator of the iteration), `base` (its f_0) or the name of another model of the study.
    For `cheap` the model whose base the student begins as."""
    num_verifications: int = Field(default=1, ge=1)
    """Verifications a response, M; the proxy utility is their mean."""
    temperature: float | None = Field(default=None, ge=0)
    """How the verifier samples, for methods that draw replies; default: the method's own, .7."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Default: the method's own, .9."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply; default: the method's own, 256."""
    on_unparsed: Literal["reject", "neutral", "resample"] = "reject"
    """A response without a readable verification gets weight 0, or the mean score of its prompt; `resample`
    first draws every unreadable reply again, three times at most, and then rejects."""
    only_teaches: bool = False
    """Of the training prompts verify no more than the students of this verification learn from. It then has
    no gap on training prompts and weights none; on evaluation prompts it verifies as ever."""
    teacher: str | None = None
    """`cheap` alone: the verification of the study whose score differences the student learns."""
    budget: int | None = Field(default=None, ge=0)
    """`cheap` alone: responses of training prompts, in all, that the student sees the teacher's score of; a
    list makes a verification of each, named `<name>-<budget>`. 0: the student as it begins, untaught."""
    responses_per_prompt: int | None = Field(default=None, ge=2)
    """`cheap` alone: how many responses of one prompt the budget is spent on; all are compared with each
    other. Default 4."""
    student: StudentSpec | None = None
    """`cheap` alone: how the student is fitted."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"method": data}
        if isinstance(data, dict) and not data.get("name"):
            data = {**data, "name": _default_name(data)}
        if isinstance(data, dict) and data.get("method") == CHEAP:
            data = {"budget": 256, "responses_per_prompt": 4, "student": {}, **data}
        return data

    @model_validator(mode="after")
    def _fields_of_a_student(self) -> Self:
        given = [
            n
            for n in ("teacher", "budget", "responses_per_prompt", "student")
            if getattr(self, n) is not None
        ]
        if self.method != CHEAP and given:
            raise ValueError(f"{given[0]} goes with method {CHEAP}, not with {self.method}")
        if self.method == CHEAP and self.teacher is None:
            raise ValueError(f"method {CHEAP} needs `teacher`, the verification whose scores it learns")
        if self.budget == 1:
            raise ValueError("budget: a single verification makes no comparison; give 2 or more, or 0")
        return self

    @property
    def is_taught(self) -> bool:
        """Whether a student has to be trained for it."""
        return self.method == CHEAP and bool(self.budget)

    @property
    def sources(self) -> tuple[str, ...]:
        """Verifications whose rows the score is made from: this one."""
        return (self.name,)

    @property
    def sampling(self) -> dict[str, Any]:
        """What the study says of the verifier's sampling; empty where it leaves it to the method."""
        return self.model_dump(mode="json", include={"temperature", "top_p", "max_tokens"}, exclude_none=True)

    @property
    def resamples(self) -> bool:
        """Whether unreadable replies are drawn again."""
        return self.on_unparsed == "resample"

    @property
    def unparsed_policy(self) -> Literal["reject", "neutral"]:
        """What stands for a score that could not be read in the end."""
        return "neutral" if self.on_unparsed == "neutral" else "reject"

    def scoring_fields(self) -> dict[str, Any]:
        """What changes the scores, and nothing that is left at its default since it came to be.

        Examples:
            >>> VerificationSpec(method="cot_score", top_p=1.0, on_unparsed="neutral").scoring_fields()
            {'method': 'cot_score', 'num_verifications': 1, 'top_p': 1.0}
        """
        fields = {"method": self.method, "num_verifications": self.num_verifications, **self.sampling}
        return {**fields, "on_unparsed": "resample"} if self.resamples else fields


class MemberSpec(Spec):
    """One verification in an ensemble; a bare name stands for the rule of the study."""

    verification: str
    q: float | None = Field(default=None, ge=0, lt=1)
    """Keep from this quantile of the prompt's scores on; for `and` and `or`."""
    tau: float | None = None
    """Keep from this score on; for `and` and `or`."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"verification": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_cut(self) -> Self:
        if self.q is not None and self.tau is not None:
            raise ValueError("give q or tau, not both")
        return self


class EnsembleSpec(Spec):
    """Several verifications as one, beside them in every table, and able to weight training."""

    name: str
    combine: Literal["and", "or", "mean_rank", "agreement"]
    """`and`, `or`: of what each member keeps by its own cut; `mean_rank`: of the members' ranks in the
    prompt; `agreement`: the same, members weighted by how they agree with the others, without labels."""
    members: tuple[MemberSpec, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _cuts_mean_something(self) -> Self:
        names = self.sources
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"members: {min(twice)!r} is named twice")
        if not self.thresholds_members and any(m.q is not None or m.tau is not None for m in self.members):
            raise ValueError(f"members: {self.combine} combines scores, so q and tau have no meaning here")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Verifications whose rows the score is made from."""
        return tuple(member.verification for member in self.members)

    @property
    def thresholds_members(self) -> bool:
        """Whether members are cut first and combined then."""
        return self.combine in ("and", "or")


Scorer = VerificationSpec | EnsembleSpec
"""What gives every generation a score and a weight."""


class WeightingSpec(Spec):
    """The weight function w of the reweighted policy f[w(u-hat)], and which rows go on to training."""

    verification: str | None = None
    """Name of the verification or ensemble whose score is used; default: the first verification."""
    rule: Literal["quantile", "threshold", "exponential", "best_of_n"] = "quantile"
    """`quantile`: score >= the prompt's q-quantile; `threshold`: score >= tau; `exponential`:
    exp(score / beta); `best_of_n`: the k best of each prompt."""
    q: float = Field(default=0.75, ge=0, lt=1)
    tau: float = 0.5
    beta: float = Field(default=0.1, gt=0)
    k: int = Field(default=1, ge=1)
    ties: Literal["keep", "random"] = "keep"
    """Samples tied at a quantile all stay, or are drawn by seed until the share is met."""
    no_survivors: Literal["identity", "skip", "pooled"] = "identity"
    """A prompt whose weights are all zero has gap 0, is left out, or is scored as part of the pool."""
    max_per_prompt: int | None = Field(default=None, ge=1)
    """Cap on training rows of one prompt; the highest weights stay."""
    duplicates: Literal["collapse", "keep"] = "keep"
    """Identical completions of one prompt train as one row (weights summed), or as they are."""

    def rule_fields(self) -> dict[str, Any]:
        """The rule with the parameters it uses, and no others: what changes the weights.

        Examples:
            >>> WeightingSpec(rule="threshold", tau=0.5, q=0.9).rule_fields()
            {'rule': 'threshold', 'tau': 0.5}
        """
        used = {"quantile": {"q", "ties"}, "threshold": {"tau"}, "exponential": {"beta"}, "best_of_n": {"k"}}
        return self.model_dump(mode="json", include={"rule", *used[self.rule]})

    @property
    def label(self) -> str:
        """The rule as text, `threshold(tau=0.5)`."""
        fields = self.rule_fields()
        return f"{fields.pop('rule')}({', '.join(f'{name}={value}' for name, value in fields.items())})"


class LoraSpec(Spec):
    """Train low-rank adapters (arXiv 2106.09685) and merge them; peft's LoraConfig names."""

    r: int = Field(default=16, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of modules; `all-linear` is every linear layer but the output head."""


class DistillationSpec(OptimisationSpec):
    """How f_t becomes f_{t+1}; TRL's SFTConfig and DPOConfig names."""

    method: Literal["sft", "dpo", "rpo", "sharpening_dpo"] = "sft"
    """`sft`: on weighted rows. `dpo` (arXiv 2305.18290) and `rpo` (DPO plus the likelihood of the accepted,
    arXiv 2404.19733): on pairs of an accepted and a rejected generation of one prompt. `sharpening_dpo`
    (arXiv 2412.01951): pairs of any two, whose score difference is regressed on."""
    start_from: Literal["base", "previous"] = "previous"
    replay_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of training rows that replay pre-training verification text (pico models only); a small policy
    tuned on answers alone forgets how to verify."""
    joint: bool = False
    """One checkpoint a model, trained on the filtered sets of all tasks together; default: one a task. For
    models given by `path`."""
    replay_iterations: int = Field(default=0, ge=-1)
    """Earlier iterations whose filtered sets train along; -1: all of them."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference, which is the policy training starts from (not sft)."""
    rpo_alpha: float = Field(default=1.0, ge=0)
    """Weight of the accepted generation's negative log-likelihood a token (rpo)."""
    lora: LoraSpec | None = None
    """Train adapters and merge them; default: all weights."""

    @property
    def pairing(self) -> Literal["accepted_rejected", "any"] | None:
        """Which pairs the method learns from; `None`: rows."""
        if self.method == "sft":
            return None
        return "any" if self.method == "sharpening_dpo" else "accepted_rejected"

    def recipe_fields(self) -> dict[str, Any]:
        """What changes the weights that come out, and nothing else.

        Fields that came later are left out where they say what was done before they came, so that what was
        made then keeps its fingerprint.

        Examples:
            >>> fields = DistillationSpec(method="dpo", max_steps=5).recipe_fields()
            >>> "num_train_epochs" in fields, fields["beta"], "lora" in fields
            (False, 0.1, False)
        """
        unused = {"num_train_epochs"} if self.max_steps > 0 else set()
        unused |= {name for name in ("replay_iterations", "lora", "joint") if not getattr(self, name)}
        unused |= {"beta"} if self.method == "sft" else set()
        unused |= {"rpo_alpha"} if self.method != "rpo" else set()
        return self.model_dump(mode="json", exclude=unused)


class SplitSpec(Spec):
    """Sizes of the two splits. They never share a prompt."""

    train: int = Field(ge=1)
    """Prompts whose filtered generations train the next policy."""
    eval: int = Field(ge=1)
    """Held-out prompts, the same in every iteration, on which gaps are reported."""
    fresh_train: bool = True
    """Draw new training prompts in every iteration, where the task has enough."""


class StopSpec(Spec):
    """When the loop may go on: the paper's precondition as a gate."""

    min_gap: float = 0.0
    """The lower end of the gap's interval must be above this, or the next iteration does not start."""


class PriceSpec(Spec):
    """Dollars, for `si-dagster cost`; no number but those depends on it."""

    per_hour: float = Field(default=0.0, ge=0)
    """Of an engine or a trainer at work."""
    per_gpu_hour: float = Field(default=0.0, ge=0)
    per_million_prompt_tokens: float = Field(default=0.0, ge=0)
    per_million_completion_tokens: float = Field(default=0.0, ge=0)


class ProbeSpec(Spec):
    """Answers whose worth is known, put to every verifier: gold answers, wrong ones, and canaries."""

    num_prompts: int = Field(default=16, ge=0)
    """Evaluation prompts they are made for, eleven answers each; 0: none."""
    max_canary_acceptance: float = Field(default=0.1, ge=0, le=1)
    """A check warns where a verifier accepts a larger share of the canaries."""


class AnalysisSpec(Spec):
    """Conventions of the estimators."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    num_resamples: int = Field(default=2000, ge=1000)
    """Resamples of the cluster bootstrap over prompts."""
    saturated: Literal["skip", "zero"] = "skip"
    """A prompt with J_x = 1 has no relative gap: leave it out, or count it as 0."""
    pass_at_k: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    """Default: the powers of two that n allows, up to 128."""
    greedy: str | None = None
    """Name of a study that decoded the same bases at temperature 0: a baseline for `sharpening`."""


class Study(Spec):
    """Everything that changes the numbers of one self-improvement study."""

    name: str
    """Names the folders and asset keys of the study; letters, digits, `_`, `.` and `-`."""
    description: str = ""
    scripted: bool = False
    """Answers come from the scripted engine: for tests of orchestration, never a result."""
    seed: int = Field(default=0, ge=0)
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    splits: SplitSpec
    generation: GenerationSpec = GenerationSpec()
    verification: tuple[VerificationSpec, ...] = Field(
        (VerificationSpec(name="multiple_choice"),), min_length=1
    )
    ensembles: tuple[EnsembleSpec, ...] = ()
    weighting: WeightingSpec = WeightingSpec()
    oracle: bool = False
    """Allow weights from ground truth (the `oracle` method): a bound to compare with, no self-improvement."""
    distillation: DistillationSpec = DistillationSpec()
    iterations: int = Field(default=2, ge=0, le=1000)
    """Updates of the policy. The policy after the last one is measured too, as `iteration_<iterations>`;
    with 0 the base alone is measured, on held-out prompts."""
    stop: StopSpec = StopSpec()
    probes: ProbeSpec = ProbeSpec()
    analysis: AnalysisSpec = AnalysisSpec()
    price: PriceSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_student_a_budget(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("verification"), list | tuple):
            return data
        return {**data, "verification": [e for entry in data["verification"] for e in _of_each_budget(entry)]}

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} must be letters, digits, '_', '.' or '-', and start with a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _names_fit_together(self) -> Self:
        for what, names in (
            ("tasks", [task.name for task in self.tasks]),
            ("models", [model.name for model in self.models]),
            ("verification", [verification.name for verification in self.verification]),
            ("ensembles", [ensemble.name for ensemble in self.ensembles]),
        ):
            _refuse_bad_names(what, names)
        self._refuse_strange_members()
        self._refuse_strange_teachers()
        _refuse_names_of_one_step([verification.name for verification in self.verification])
        model_names = {model.name for model in self.models}
        if reserved := model_names & {SELF, BASE}:
            raise ValueError(
                f"models: {reserved.pop()!r} is what `verifier` calls the policy itself or its base"
            )
        for index, verification in enumerate(self.verification):
            if verification.verifier not in {SELF, BASE, *model_names}:
                raise ValueError(
                    f"verification.{index}.verifier: {verification.verifier!r} is not "
                    f"{SELF!r}, {BASE!r} or a model of this study ({', '.join(sorted(model_names))})"
                )
        self._refuse_weights_of_what_only_teaches()
        self._refuse_k_above_n()
        self._refuse_pairs_without_rejected()
        self._refuse_joint_policies_of_several_bases()
        return self

    def _refuse_strange_members(self) -> None:
        known = [verification.name for verification in self.verification]
        for index, ensemble in enumerate(self.ensembles):
            if ensemble.name in known:
                raise ValueError(f"ensembles.{index}.name: {ensemble.name!r} is a verification")
            if strange := [name for name in ensemble.sources if name not in known]:
                raise ValueError(
                    f"ensembles.{index}.members: {strange[0]!r} is no verification of this study "
                    f"({', '.join(known)})"
                )

    def _refuse_strange_teachers(self) -> None:
        dear = [spec.name for spec in self.verification if spec.method != CHEAP]
        for index, spec in enumerate(self.verification):
            where = f"verification.{index}"
            if spec.method == CHEAP and spec.teacher not in dear:
                fault = "is cheap itself" if spec.teacher in self._names() else "is none of this study"
                known = f"; it can be one of: {', '.join(dear)}" if dear else ""
                raise ValueError(f"{where}.teacher: {spec.teacher!r} {fault}{known}")
            if spec.is_taught and self.iterations == 0:
                raise ValueError(
                    f"{where}: a student learns on training prompts, and iterations: 0 has none; "
                    "set iterations to 1 or more, or budget to 0"
                )
            if spec.only_teaches and not self.students_of(spec.name):
                raise ValueError(f"{where}.only_teaches: no student of this study learns from {spec.name!r}")

    def _refuse_weights_of_what_only_teaches(self) -> None:
        """Its training prompts are not verified but for a few, so there is nothing to weight them by."""
        for scorer in (self.weighting_verification(), *self.ensembles):
            idle = [name for name in scorer.sources if self.verification_named(name).only_teaches]
            if idle:
                raise ValueError(
                    f"verification {idle[0]!r} says only_teaches, so {scorer.name!r} has no scores of most "
                    "training prompts: set only_teaches to false, or let another verification weight training"
                )

    def _names(self) -> list[str]:
        return [verification.name for verification in self.verification]

    def students_of(self, teacher: str) -> tuple[VerificationSpec, ...]:
        """The cheap verifications whose students learn from that verification."""
        return tuple(spec for spec in self.verification if spec.is_taught and spec.teacher == teacher)

    def _refuse_joint_policies_of_several_bases(self) -> None:
        """A pre-trained base is of one task, and so is its text."""
        if not self.distillation.joint:
            return
        trained = [model.name for model in self.models if model.pretrain is not None]
        if trained:
            raise ValueError(
                f"distillation.joint: {trained[0]!r} is pre-trained for each task apart, so its tasks have "
                "no common base; give the model by `path`, or leave joint false"
            )
        if self.distillation.replay_fraction:
            raise ValueError("distillation.replay_fraction: pre-training text is of one task; leave it 0")

    def _refuse_pairs_without_rejected(self) -> None:
        distillation = self.distillation
        if distillation.pairing == "accepted_rejected" and self.weighting.rule == "exponential":
            raise ValueError(
                f"distillation.method: {distillation.method} learns from accepted and rejected generations, "
                "but weighting.rule exponential rejects none; use quantile, threshold or best_of_n, or "
                "method sharpening_dpo"
            )
        if distillation.pairing and distillation.replay_fraction:
            raise ValueError(
                f"distillation.replay_fraction: {distillation.method} learns from pairs, and pre-training "
                "text has none; leave it 0"
            )

    def _refuse_k_above_n(self) -> None:
        too_large = [k for k in self.analysis.pass_at_k or () if k > self.generation.n]
        if too_large:
            raise ValueError(
                f"analysis.pass_at_k: pass@{too_large[0]} needs at least {too_large[0]} generations "
                f"a prompt, generation.n is {self.generation.n}"
            )
        if self.weighting.rule == "best_of_n" and self.weighting.k > self.generation.n:
            raise ValueError(
                f"weighting.k: {self.weighting.k} is more than generation.n = {self.generation.n}"
            )

    def scorers(self) -> tuple[Scorer, ...]:
        """All that gives generations a score: verifications, then ensembles of them."""
        return (*self.verification, *self.ensembles)

    def scorer_named(self, name: str) -> Scorer:
        """The verification or ensemble of that name."""
        return next(scorer for scorer in self.scorers() if scorer.name == name)

    def weighting_verification(self) -> Scorer:
        """The verification or ensemble whose proxy utility the weights are made from.

        Raises:
            ValueError: If `weighting.verification` names none of the study.
        """
        if self.weighting.verification is None:
            return self.verification[0]
        if self.weighting.verification in (known := [scorer.name for scorer in self.scorers()]):
            return self.scorer_named(self.weighting.verification)
        raise ValueError(
            f"weighting.verification: {self.weighting.verification!r} is not one of: {', '.join(known)}"
        )

    def member_rule(self, member: MemberSpec) -> WeightingSpec:
        """The rule by which a member of an ensemble is cut: its own, or that of the study."""
        if member.tau is not None:
            return WeightingSpec(rule="threshold", tau=member.tau)
        if member.q is not None:
            return WeightingSpec(rule="quantile", q=member.q, ties=self.weighting.ties)
        return self.weighting

    def rule_label(self, scorer: Scorer) -> str:
        """The weight function as text, with the cuts of an ensemble's members where it has them."""
        if isinstance(scorer, VerificationSpec) or not scorer.thresholds_members:
            return self.weighting.label
        cuts = [f"{m.verification}: {self.member_rule(m).label}" for m in scorer.members]
        return f"{scorer.combine}({', '.join(cuts)})"

    def verification_named(self, name: str) -> VerificationSpec:
        """The verification of that name."""
        return next(verification for verification in self.verification if verification.name == name)

    def model(self, name: str) -> ModelSpec:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)

    def task(self, name: str) -> TaskSpec:
        """The task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def cells(self) -> list[tuple[str, str]]:
        """All (model, task) pairs, in the order of the file."""
        return [(model.name, task.name) for model in self.models for task in self.tasks]

    def pass_at_k(self) -> tuple[int, ...]:
        """The k of pass@k that are reported: as asked, or the powers of two that n allows."""
        if self.analysis.pass_at_k is not None:
            return self.analysis.pass_at_k
        return tuple(k for k in DEFAULT_KS if k <= self.generation.n)

    @property
    def sampling_seed(self) -> int:
        """`generation.seed`, or the seed of the study."""
        return self.seed if self.generation.seed is None else self.generation.seed


def _default_name(verification: Mapping[str, Any]) -> str:
    """The name of a verification that has none, from its fields as written.

    Examples:
        >>> _default_name({"method": "cheap", "teacher": "cot_score", "verifier": "small"})
        'cheap-of-cot_score-by-small'
    """
    method, verifier = verification.get("method", "multiple_choice"), verification.get("verifier", SELF)
    taught = f"-of-{verification['teacher']}" if method == CHEAP and verification.get("teacher") else ""
    return f"{method}{taught}" + ("" if verifier == SELF else f"-by-{verifier}")


def _of_each_budget(verification: Any) -> list[Any]:
    """A cheap verification as written with several budgets stands for one of each.

    Examples:
        >>> verification = {"method": "cheap", "teacher": "mc", "budget": [0, 64]}
        >>> [each["name"] for each in _of_each_budget(verification)]
        ['cheap-of-mc-0', 'cheap-of-mc-64']
    """
    budgets = verification.get("budget") if isinstance(verification, dict) else None
    if not isinstance(budgets, list | tuple) or not budgets:
        return [verification]
    name = verification.get("name") or _default_name(verification)
    return [{**verification, "budget": budget, "name": f"{name}-{budget}"} for budget in budgets]


def _refuse_names_of_one_step(names: Sequence[str]) -> None:
    """Each verification is an asset, and Dagster names their steps by letters, digits and `_` alone."""
    steps: dict[str, str] = {}
    for index, name in enumerate(names):
        first = steps.setdefault(re.sub(r"[-.]", "_", name), name)
        if first != name:
            raise ValueError(
                f"verification.{index}.name: {name!r} differs from {first!r} in punctuation alone"
            )


def _refuse_bad_names(what: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if not NAME.fullmatch(name):
            raise ValueError(f"{what}.{index}.name: {name!r} must be letters, digits, '_', '.' or '-'")
        if name in names[:index]:
            raise ValueError(f"{what}.{index}.name: {name!r} appears twice")
        # Dagster names steps by letters, digits and `_` alone.


def is_study_file(study: str) -> bool:
    """Whether a study is asked for by its file rather than by its name."""
    return Path(study).suffix in (".yaml", ".yml") or Path(study).is_file()


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file, with dotted overrides.

    A `seed=...` that differs from the file makes a replicate of its own, `<name>__seed_<seed>`, so that
    replicates lie side by side; `scripted=true` makes `<name>__scripted`, so that no scripted answer lies
    beside a real one. Any other override keeps the name; give `name=...` to keep both.

    Args:
        path: YAML file.
        overrides: `field.subfield=value`, the value read as YAML; list items by index (`tasks.0.name=...`).

    Raises:
        StudyError: Names file, field, what was found and what is allowed.

    Examples:
        >>> load_study("studies/quickstart.yaml", ["seed=7"]).name
        'quickstart__seed_7'
        >>> load_study("studies/quickstart.yaml", ["stop.max_gap=4"])
        Traceback (most recent call last):
        ...
        si_dagster.study.StudyError: studies/quickstart.yaml: 1 problem
          stop.max_gap: not a field; allowed here: min_gap (found 4)
    """
    path = Path(path)
    data = _read_yaml(path)
    file_seed, file_scripted, file_name = data.get("seed", 0), data.get("scripted", False), data.get("name")
    for override in overrides:
        _apply_override(path, data, override)
    if data.get("name") == file_name:
        replicate = f"__seed_{data['seed']}" if data.get("seed", 0) != file_seed else ""
        scripted = "__scripted" if data.get("scripted", False) and not file_scripted else ""
        data["name"] = f"{file_name}{replicate}{scripted}"
    return parse_study(data, str(path))


def parse_study(data: Mapping[str, Any], source: str) -> Study:
    """A study from plain data; errors are told as in `load_study`, with `source` for the file."""
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        # A list with a bad item is also reported as too short: one problem, not two.
        items = error.errors()
        told = [item for item in items if item["type"] != "too_short" or not _has_bad_item(item, items)]
        problems = [_problem(item) for item in told]
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise StudyError("\n  ".join([f"{source}: {count}", *problems])) from None


class _Loader(yaml.SafeLoader):
    """YAML in which no mapping has a key twice: the first would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} stands here twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return node


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        known = ", ".join(sorted(str(file) for file in folder.glob("*.yaml"))) or "none"
        raise StudyError(f"{path}: no such study file; study files in {folder}/: {known}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(data, dict):
        raise StudyError(f"{path}: a study is a mapping of fields, found {type(data).__name__}")
    return data


def _apply_override(path: Path, data: dict[str, Any], override: str) -> None:
    try:
        field, value = assignment(override, "override")
    except ValueError as error:
        raise StudyError(f"{path}: {error}; a field of a field is field.subfield") from None
    *parents, last = field.split(".")
    node: Any = data
    for depth, part in enumerate(parents):
        where = ".".join(parents[: depth + 1])
        node = _child(path, where, part, node)
        if not isinstance(node, dict | list):
            raise StudyError(f"{path}: override {override!r}: {where} is {node!r} and has no fields")
    if isinstance(node, list):
        node[_index(path, field, last, node)] = value
    else:
        node[last] = value


def _child(path: Path, where: str, part: str, node: Any) -> Any:
    if isinstance(node, list):
        return node[_index(path, where, part, node)]
    return node.setdefault(part, {})


def _index(path: Path, where: str, part: str, items: list[Any]) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise StudyError(f"{path}: {where}: expected an index from 0 to {len(items) - 1}, found {part!r}")
    return int(part)


def _has_bad_item(item: Any, items: Sequence[Any]) -> bool:
    place = item["loc"]
    return any(other["loc"][: len(place)] == place for other in items if other is not item)


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(item["loc"][:-1])))
        return f"{where}: not a field; allowed here: {allowed} (found {item['input']!r})"
    if item["type"] == "missing":
        return f"{where}: required, but not there"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (found {item['input']!r})"


def _fields_at(location: Sequence[str | int]) -> set[str]:
    """Field names of the spec at a location of the study, lists looked through."""
    model: Any = Study
    for part in location:
        if isinstance(part, int):
            continue
        model = _spec_in(model.model_fields[part].annotation)
    return set(model.model_fields)


def _spec_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    return next(found for part in getattr(annotation, "__args__", ()) if (found := _spec_in(part)))
