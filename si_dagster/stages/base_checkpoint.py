"""The base policy f_0 when it is given, not trained: a reference to a folder, pinned by its bytes.

Weights are not copied. `reference.json` names the folder and the digest of what was in it; opening it
later checks that the bytes are the same. Only safetensors weights are taken: a pickle can run code.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

REFERENCE = "reference.json"
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class CheckpointError(ValueError):
    """A model folder that cannot be used; the message says what is wrong and what to do."""


def resolve_model(path: str, revision: str | None) -> Path:
    """The local folder of a model: the folder itself, or a download of the Hugging Face id.

    Raises:
        CheckpointError: If there is no such folder or id, or it has no safetensors weights.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _download(path, revision)
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise CheckpointError(f"{folder}: no *.safetensors weights (found {found}); convert the model first")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; `path` must be a Hugging Face model folder")
    return folder.absolute()


def _download(model_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    if model_id.startswith((".", "/", "~")):
        raise CheckpointError(f"{model_id}: no such folder")
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=list(PATTERNS)))
    except Exception as error:
        raise CheckpointError(
            f"{model_id!r} is neither a local folder nor a Hugging Face id that can be fetched: {error}"
        ) from error


def model_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of the files that make the model; cached by size and time of change."""
    return files_digest(sorted({file for pattern in PATTERNS for file in folder.glob(pattern)}))


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 over names and bytes of files, in order; a file is read again only where it has changed."""
    lines = [f"{file.name} {_sha256(file, file.stat().st_size, file.stat().st_mtime_ns)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _sha256(file: Path, size: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_reference(staging: Path, folder: Path, source: str, revision: str | None) -> dict[str, Any]:
    """Write `reference.json` for a resolved model folder and return what it says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    reference = {
        "source": source,
        "revision": revision,
        "folder": str(folder),
        "digest": model_digest(folder),
        "architectures": config.get("architectures"),
        "num_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    }
    (staging / REFERENCE).write_text(json.dumps(reference, indent=2), encoding="utf-8")
    return reference


def checkpoint_folder(artifact: Path) -> Path:
    """The folder engines and trainers open: the artifact itself, or the model it refers to.

    Raises:
        CheckpointError: If the referred model is gone or its bytes have changed.
    """
    file = artifact / REFERENCE
    if not file.is_file():
        return artifact
    reference = json.loads(file.read_text(encoding="utf-8"))
    folder = Path(reference["folder"])
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: the model this study began from is gone; put it back")
    if model_digest(folder) != reference["digest"]:
        raise CheckpointError(
            f"{folder}: the bytes of this model changed since the study began; put the old ones back, or "
            "start a study of another name"
        )
    return folder
