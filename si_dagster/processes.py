"""Processes that must not outlive the one that started them. It starts none itself."""

import os
import threading
import time

PARENT_POLL_SECONDS = 0.5


def exit_with_parent(parent: int) -> None:
    """End this process as soon as it is another's child, even in the middle of a native call.

    By polling rather than PR_SET_PDEATHSIG, which fires when the *thread* that started us ends; an
    orchestrator starts children from threads that it drops.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
