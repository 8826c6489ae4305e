"""The verification methods a study may name, and how a name becomes a method.

Modules are imported when they are asked for. It does not discover methods or read plugins.
"""

from importlib import import_module

from si_dagster.verification.base import VerificationMethod

METHOD_CLASSES = {
    "cheap": ("si_dagster.verification.cheap", "Cheap"),
    "cot_binary": ("si_dagster.verification.cot_binary", "CotBinary"),
    "cot_score": ("si_dagster.verification.cot_score", "CotScore"),
    "log_likelihood": ("si_dagster.verification.log_likelihood", "LogLikelihood"),
    "log_likelihood_normalised": (
        "si_dagster.verification.log_likelihood_normalised",
        "LogLikelihoodNormalised",
    ),
    "majority_vote": ("si_dagster.verification.majority_vote", "MajorityVote"),
    "multiple_choice": ("si_dagster.verification.multiple_choice", "MultipleChoice"),
    "oracle": ("si_dagster.verification.oracle", "Oracle"),
    "random": ("si_dagster.verification.random", "Random"),
    "tournament": ("si_dagster.verification.tournament", "Tournament"),
    "tournament_swapped": ("si_dagster.verification.tournament", "SwappedTournament"),
}
"""Method name -> (module, class)."""


class UnknownMethodError(ValueError):
    """A verification method that does not exist; says which do."""


def method_names() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(METHOD_CLASSES)


def load_method(name: str) -> VerificationMethod:
    """The verification method of that name.

    Raises:
        UnknownMethodError: If there is none.

    Examples:
        >>> load_method("multiple_choice").name
        'multiple_choice'
        >>> load_method("coin")
        Traceback (most recent call last):
        ...
        si_dagster.verification.catalogue.UnknownMethodError: no verification method 'coin': allowed are \
cheap, cot_binary, cot_score, log_likelihood, log_likelihood_normalised, majority_vote, multiple_choice, \
oracle, random, tournament, tournament_swapped
    """
    if name not in METHOD_CLASSES:
        raise UnknownMethodError(f"no verification method {name!r}: allowed are {', '.join(method_names())}")
    module, class_name = METHOD_CLASSES[name]
    return getattr(import_module(module), class_name)()
