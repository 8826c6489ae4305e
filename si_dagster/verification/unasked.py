"""What methods share that ask the verifier nothing in words."""

from typing import ClassVar, NoReturn

from si_dagster.tasks.base import PromptStyle, Task, TaskRow


class Unasked:
    """A method without a question."""

    name: ClassVar[str]
    asks: ClassVar[bool] = False

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> NoReturn:
        """There is none: look at `asks` first."""
        raise TypeError(f"verification method {self.name} asks the verifier nothing")
