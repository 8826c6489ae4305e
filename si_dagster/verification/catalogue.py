"""The verification methods a study may name, and how a name becomes a method.

Modules are imported when they are asked for. It does not discover methods or read plugins.
"""

from importlib import import_module

from si_dagster.verification.base import VerificationMethod

METHOD_CLASSES = {
    "multiple_choice": ("si_dagster.verification.multiple_choice", "MultipleChoice"),
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
multiple_choice
    """
    if name not in METHOD_CLASSES:
        raise UnknownMethodError(f"no verification method {name!r}: allowed are {', '.join(method_names())}")
    module, class_name = METHOD_CLASSES[name]
    return getattr(import_module(module), class_name)()
