"""Several training processes on this machine, by torchrun.

    python -m si_dagster.training.launch NUM_PROCESSES MODULE SPEC.json

They end with this process and this process ends with its parent. One failing ends all; none is started
again, since the step above does that from what is whole. Nothing here reaches another machine.
"""

import fcntl
import os
import sys
from pathlib import Path
from typing import TextIO

from si_dagster.processes import exit_with_parent
from si_dagster.training.faults import exit_reason


def main() -> None:
    """Launch and wait; the exit code is 1 if any process failed."""
    exit_with_parent(os.getppid())
    if len(sys.argv) != 4:
        sys.exit("usage: python -m si_dagster.training.launch NUM_PROCESSES MODULE SPEC.json")
    num_processes, module, spec_file = sys.argv[1:]
    # DeepSpeed calls ninja by name, which is installed beside this interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(num_processes))))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun
    from torch.utils.cpp_extension import get_default_build_root

    extensions = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    _launches = forget_killed_builds(extensions)
    try:
        torchrun(["--standalone", f"--nproc-per-node={num_processes}", "-m", module, spec_file])
    except ChildFailedError as error:
        sys.exit(f"training failed: {exit_reason(spec_file, error.get_first_failure()[1].exitcode)}")


def forget_killed_builds(extensions: Path) -> TextIO:
    """Remove what builds that were killed have left, unless another launch may be building now.

    Torch guards the build of an extension, DeepSpeed's communication among them, by a file `lock`. A kill
    leaves it there, and every later training would wait for it for ever.

    Args:
        extensions: Where torch builds them.

    Returns:
        What tells other launches of this one; keep it open.
    """
    extensions.mkdir(parents=True, exist_ok=True)
    launches = (extensions / ".si-dagster-launches").open("a")
    try:
        fcntl.flock(launches, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in extensions.rglob("lock"):
            left.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # another launch is there: what it builds is not touched
    fcntl.flock(launches, fcntl.LOCK_SH)
    return launches


if __name__ == "__main__":
    main()
