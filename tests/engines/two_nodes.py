"""A Ray cluster of two nodes on this machine, one of which can be killed."""

import time
from contextlib import suppress
from typing import Any

import psutil


class TwoNodes:
    """A head with room for one actor, and a second node like it that can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._node = {"num_cpus": 1, "object_store_memory": 2**27, "node_ip_address": "127.0.0.1"}
        # Each of these is a Python process that loads Ray, and nothing here asks them.
        spared = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**self._node, **spared}, shutdown_at_exit=False
        )
        self._second: Any = None
        self.address: str = self._cluster.address

    def start_second_node(self, **more: Any) -> None:
        """Unless it is there; `more` is what it has beside the head's."""
        self._second = self._second or self._cluster.add_node(**self._node, **more)

    def wait_for_actor(self) -> None:
        """Until the second node holds one that has opened its engine, which may be long after the first."""
        while not (self.engines_of_second_node() and self._has_idle_actor()):
            time.sleep(0.05)

    def _has_idle_actor(self) -> bool:
        """As Ray titles its workers: with `.open` behind it while it opens its engine."""
        return any(command_of(process)[:1] == ["ray::Replica"] for process in self.second_processes())

    def engines_of_second_node(self) -> list[psutil.Process]:
        """The processes of its actors' engines."""
        return [p for p in self.second_processes() if "si_dagster.engines.worker" in command_of(p)]

    def kill_second_node(self) -> None:
        """All its processes at once, as when a machine loses power."""
        for process in self.second_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def second_processes(self) -> list[psutil.Process]:
        """The second node's raylet and all below it."""
        raylet = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def shutdown(self) -> None:
        self._cluster.shutdown()


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
