import subprocess
import sys

import pytest

from si_dagster.tasks.catalogue import TaskOptionError, load_task, task_names


def test_unknown_name_lists_the_allowed_ones():
    with pytest.raises(TaskOptionError) as error:
        load_task("gsm8", {})
    assert all(name in str(error.value) for name in task_names())
    assert "sudoku4" in task_names()


def test_reading_the_catalogue_imports_no_task():
    names = "{m for m, _ in c.TASK_CLASSES.values()}"
    code = f"import sys, si_dagster.tasks.catalogue as c; print({names} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr
