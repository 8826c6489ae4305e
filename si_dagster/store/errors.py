"""What can go wrong at rest, each with a way out in its message.

Not here: errors of engines, graders or trainers; those are rows with a `status` or belong to their adapter.
"""


class StoreError(RuntimeError):
    """The store could not do what was asked; the message names the path and says what to do."""


class AddressError(StoreError, ValueError):
    """A name cannot be part of an address, or a text is not an address."""


class SchemaError(StoreError, ValueError):
    """A table breaks the declared schema of its stage."""


class DiskFull(StoreError):
    """No space, quota or file size left; nothing was put under the final name."""


class ArtifactBusy(StoreError):
    """Another process is writing this artifact."""


class RecipeDrift(StoreError):
    """What lies at the address was made by another recipe than the study asks for now.

    Attributes:
        fields: Dotted field -> (stored value, value asked for now), only those that differ.
    """

    def __init__(self, message: str, fields: dict[str, tuple[object, object]]):
        super().__init__(message)
        self.fields = fields


class MissingArtifact(StoreError):
    """An artifact is not there, or was begun and not finished."""


class CorruptArtifact(StoreError):
    """The bytes are not the ones the manifest vouches for."""


class UnknownId(StoreError, KeyError):
    """No row or checkpoint has this id.

    Attributes:
        nearest: Ids that look most like it, best first.
    """

    def __init__(self, message: str, nearest: list[str]):
        super().__init__(message)
        self.nearest = nearest

    def __str__(self) -> str:
        return str(self.args[0])


class StoreWarning(UserWarning):
    """Something damaged was set aside and will be made again."""
