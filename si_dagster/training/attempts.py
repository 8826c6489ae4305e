"""What a training spent over all its attempts: a killed one took its time, though another finished the work.

Kept beside the trainer's own checkpoints, of every attempt up to a second before it was killed. Not counted:
importing libraries and loading weights. Peaks of memory are those of the last attempt.
"""

import time
from pathlib import Path

from si_dagster.store.atomic import read_json, write_json

FILE = "spent.json"
SECONDS_BETWEEN_SAVES = 1.0


class Attempts:
    """Seconds, GPU-seconds and tokens, those of this attempt from now on.

    Args:
        work: Folder of the trainer's own checkpoints; `None` keeps nothing.
        num_gpus: That this attempt holds.
        resumed: The checkpoint that this attempt goes on from.
    """

    def __init__(self, work: Path | None, num_gpus: int, resumed: str | None = None) -> None:
        self._num_gpus, self._resumed_tokens = num_gpus, _tokens_seen(resumed)
        self._file = work / FILE if work else None
        kept = read_json(self._file) if self._file else {}
        # Where nothing was kept, the steps up to the checkpoint were made for certain.
        self._earlier = kept or {"tokens": self._resumed_tokens}
        self._began, self._saved = time.monotonic(), -SECONDS_BETWEEN_SAVES

    @property
    def seconds(self) -> float:
        """Of this attempt alone."""
        return time.monotonic() - self._began

    def total(self, num_tokens: int) -> dict[str, float]:
        """Of all attempts; `num_tokens` as the trainer counts, which goes on from those of its checkpoint."""
        seconds = self.seconds
        now = {
            "seconds": seconds,
            "gpu_seconds": seconds * self._num_gpus,
            "tokens": num_tokens - self._resumed_tokens,
        }
        return {name: value + self._earlier.get(name, 0) for name, value in now.items()}

    def save(self, num_tokens: int, at_once: bool = False) -> None:
        """Keep the total; at most once a second, unless it is to be `at_once`."""
        if self._file and (at_once or self.seconds - self._saved >= SECONDS_BETWEEN_SAVES):
            self._saved = self.seconds
            write_json(self._file, self.total(num_tokens))


def _tokens_seen(checkpoint: str | None) -> int:
    if checkpoint is None:
        return 0
    return int(read_json(Path(checkpoint) / "trainer_state.json").get("num_input_tokens_seen") or 0)
