"""The engine over a Ray cluster: actors that each hold the policy, and calls handed to whichever is idle.

An actor that dies (its process, its engine's, its node) is replaced wherever the cluster has room, and its
call is made again by another; the caller notices nothing. A draw depends on its key alone, so neither the
number of actors nor a death changes a row. It cuts no work: callers hand in chunks, as many at once as there
are actors. It ships no checkpoint: the folder must lie where every node sees it. An engine that dies while it
opens is not opened elsewhere.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from si_dagster.engines.base import EngineError, Usage
from si_dagster.engines.process import MEMORY_OPTIONS, EngineProcess
from si_dagster.engines.remote import RemoteEngine, answered

LOCAL_OBJECT_STORE_BYTES = 2**28
"""Of a cluster started here; chunks are texts of some MiB. Ray would take 30% of the memory."""

MAX_TRIES = 4
"""Actors that one call may cost: a chunk that kills all of them is at fault, not the machines."""

POLL_SECONDS = 0.5

COUNTERS = ("prompt_tokens", "completion_tokens", "cached_tokens", "seconds")


class Replica:
    """What runs in an actor: one engine, in a process of its own with the Python that its kind has there.

    That process sees the GPUs that Ray gave the actor, and ends with it. The engine is opened in `open` and
    not on construction, so that what cannot be opened is told in its words.
    """

    def open(self, kind: str, path: str, options: dict[str, Any], python: str) -> tuple[str | None, Usage]:
        """Open the engine; (error or `None`, usage)."""
        self._engine: EngineProcess
        failure, engine = answered(EngineProcess, (kind, path, options, python))
        if failure is not None:
            return f"{failure} (on node {ray.util.get_node_ip_address()})", Usage()
        self._engine = engine
        return None, engine.usage()

    def answer(self, method: str, arguments: tuple[Any, ...]) -> tuple[str | None, Any, Usage, bool]:
        """One call: (error or `None`, result, usage of this call alone, whether the engine died of it)."""
        before = self._engine.usage()
        failure, result = answered(getattr(self._engine, method), arguments)
        return failure, result, counted(self._engine.usage(), -1, before), self._engine.is_closed


class ActorPool:
    """Actors that answer one call at a time; those that die are replaced.

    Args:
        spawn: Asks the cluster for one more actor and its opening: (actor, reference to what `open` returns).
        size: Actors wanted.
        start_seconds: Patience while no actor is there at all.
        memory_options: What to lower where one call kills every actor.
    """

    def __init__(
        self,
        spawn: Callable[[], tuple[Any, Any]],
        size: int,
        start_seconds: float,
        memory_options: str,
    ) -> None:
        self._spawn, self._size, self._start_seconds = spawn, size, start_seconds
        self._memory_options = memory_options
        self._changed = threading.Condition()
        self._idle: deque[Any] = deque()
        """The longest idle first: each is asked in its turn, and a dead one is found early."""
        self._num_alive = self._num_coming = 0
        self._coming: list[threading.Thread] = []
        self._is_closed = False
        self._deaths = 0
        """Since the last answer; more than a few an actor, and none is asked for any more."""
        self._last_failure = ""
        self.num_lost = 0
        """Actors that died since the start."""
        self.num_parameters = 0
        with self._changed:
            for _ in range(size):
                self._add()

    def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[str | None, Any, Usage]:
        """The answer of an idle actor, or of the next one if it dies.

        Raises:
            EngineError: If no actor is left or comes up, or if the call costs one actor after the other.
        """
        for _ in range(MAX_TRIES):
            actor = self._take()
            try:
                answer: Any = ray.get(actor.answer.remote(method, arguments))
            except RayTaskError as error:
                self._give_back(actor)
                raise EngineError(f"the ray engine failed: {error}") from error
            except RayError as error:
                self._lose(actor, str(error))
            else:
                failure, result, usage, is_dead = answer
                if not is_dead:
                    self._give_back(actor)
                    return failure, result, usage
                self._lose(actor, failure)
        raise EngineError(
            f"one chunk cost {MAX_TRIES} actors (out of memory? lower {self._memory_options}); "
            f"the last: {self._last_failure}"
        )

    def wait_for_one(self) -> None:
        """Return once an actor is idle.

        Raises:
            EngineError: If none is left, or none comes up in time.
        """
        with self._changed:
            deadline = time.monotonic() + self._start_seconds
            while not self._idle:
                if self._num_alive:
                    self._changed.wait()
                    deadline = time.monotonic() + self._start_seconds
                elif not self._num_coming:
                    raise EngineError(f"the ray engine has no actor left: {self._last_failure}")
                elif not self._changed.wait(deadline - time.monotonic()):
                    raise EngineError(
                        f"no actor came up within {self._start_seconds:.0f} s; the cluster has "
                        f"{ray.cluster_resources()}: ask for less (num_cpus, num_gpus, resources), or wait "
                        "longer (start_seconds)"
                    )

    def _take(self) -> Any:
        with self._changed:
            self.wait_for_one()
            return self._idle.popleft()

    def close(self) -> None:
        """Ask for no more actors; those that wait for one are told."""
        with self._changed:
            self._is_closed = True
            self._num_coming = self._num_alive = 0
            self._idle.clear()
            self._last_failure = "the engine is closed"
            self._changed.notify_all()
        for thread in self._coming:
            thread.join()

    def _give_back(self, actor: Any) -> None:
        with self._changed:
            self._deaths = 0
            self._idle.append(actor)
            self._changed.notify_all()

    def _lose(self, actor: Any, cause: str) -> None:
        """Make sure that an actor is dead, and ask for another."""
        ray.kill(actor)
        with self._changed:
            self._num_alive -= 1
            self._note_death(cause)

    def _note_death(self, cause: str) -> None:
        self.num_lost += 1
        self._deaths += 1
        self._last_failure = cause.strip()
        if self._deaths < MAX_TRIES * self._size:
            self._add()
        self._changed.notify_all()

    def _add(self) -> None:
        if not self._is_closed:
            self._num_coming += 1
            thread = threading.Thread(target=self._bring_up, daemon=True)
            self._coming = [*filter(threading.Thread.is_alive, self._coming), thread]
            thread.start()

    def _bring_up(self) -> None:
        """One more actor, from the asking until it has opened its engine, could not, or died of it."""
        try:
            actor, opened = self._spawn()
            # Not `get`: a thread that waits in Ray while Ray is shut down takes the process with it.
            while not ray.wait([opened], timeout=POLL_SECONDS)[0]:
                if self._is_closed:
                    return
            failure, usage = ray.get(opened)
        except RayError as error:
            with self._changed:
                self._num_coming -= 1
                self._note_death(str(error))
            return
        with self._changed:
            self._num_coming -= 1
            if failure is None:
                self._num_alive += 1
                self.num_parameters = usage.num_parameters
                self._idle.append(actor)
            else:
                self._last_failure = failure
            self._changed.notify_all()


class RayEngine(RemoteEngine):
    """One policy, held by as many actors as a Ray cluster has room for.

    Args:
        path: Checkpoint folder, on storage that every node sees, or the name of a model on the hub.
        engine: The engine of each actor: a name `open_engine` knows.
        options: Keyword arguments of that engine; `python` among them is the Python it runs with, by
            default what `engine_python` finds on the node of the actor.
        address: Of the cluster: `auto`, `host:6379` or `ray://host:10001`; `None` takes RAY_ADDRESS, and
            where that is not set starts a cluster of this machine alone, which ends with the engine.
        num_actors: Actors, so calls at once; `None` takes as many as the cluster has room for now.
        num_cpus: CPUs of each actor.
        num_gpus: GPUs of each actor; `None` takes 1 where the cluster has any, else 0.
        resources: Custom resources of each actor.
        start_seconds: Patience while no actor is there: nodes may have to be started first.
        trust_remote_code: Whether to run model code that lies in the checkpoint.

    Raises:
        EngineError: If there is no such cluster, or if no actor can open the engine.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        engine: str = "transformers",
        options: Mapping[str, Any] | None = None,
        address: str | None = None,
        num_actors: int | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        start_seconds: float = 600,
        trust_remote_code: bool = False,
    ) -> None:
        if engine == "ray":
            raise EngineError("engine ray: the engine of an actor is another one, e.g. transformers")
        connect(address or os.environ.get("RAY_ADDRESS"))
        try:
            nodes = ray.cluster_resources()
            share = {
                "CPU": num_cpus,
                "GPU": min(1.0, nodes.get("GPU", 0.0)) if num_gpus is None else num_gpus,
            }
            share |= dict(resources or {})
            self.num_lanes = num_actors or room(nodes, share)
            inner = {**(options or {}), **({"trust_remote_code": True} if trust_remote_code else {})}
            python = inner.pop("python", "")
            place = str(Path(path).absolute()) if Path(path).exists() else str(path)
            self._pool = ActorPool(
                lambda: start_actor(share, engine, place, inner, python),
                self.num_lanes,
                start_seconds,
                MEMORY_OPTIONS.get(engine, "chunk_prompts"),
            )
            self._pool.wait_for_one()
        except BaseException:
            self.close()
            raise
        num_gpus = math.ceil(share["GPU"] * self.num_lanes)
        self._usage = Usage(num_parameters=self._pool.num_parameters, num_gpus=num_gpus)
        self._counting = threading.Lock()
        self._under_way, self._since = 0, 0.0

    def _call(self, method: str, *arguments: Any) -> Any:
        with self._timed():
            failure, result, usage = self._pool.call(method, arguments)
        with self._counting:
            spent = replace(usage, extra={**usage.extra, "actor_seconds": usage.seconds}, seconds=0.0)
            self._usage = counted(self._usage, 1, spent).with_peaks(
                usage.peak_memory_bytes, usage.peak_gpu_memory_bytes
            )
            self._usage.extra["actors_lost"] = float(self._pool.num_lost)
        if failure is not None:
            raise EngineError(failure)
        return result

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the wall while any call is under way; calls side by side count once."""
        with self._counting:
            self._under_way += 1
            if self._under_way == 1:
                self._since = time.perf_counter()
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1
                if not self._under_way:
                    self._usage.seconds += time.perf_counter() - self._since

    def usage(self) -> Usage:
        """See `Engine.usage`; seconds are wall, `extra["actor_seconds"]` the sum over actors."""
        with self._counting:
            under_way = time.perf_counter() - self._since if self._under_way else 0.0
            seconds = self._usage.seconds + under_way
            return replace(self._usage, seconds=seconds, extra=dict(self._usage.extra))

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        if hasattr(self, "_pool"):
            self._pool.close()
        ray.shutdown()


def connect(address: str | None) -> None:
    """Join the cluster of that address, or start one here for `None`.

    Raises:
        EngineError: If there is none.
    """
    # Ray counts its users unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    if address is not None:
        # One attempt takes 40 s; by default Ray makes 20.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    where: dict[str, Any] = local if address is None else {"address": address}
    try:
        ray.init(**where)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise EngineError(
            f"no Ray cluster at {address or 'this machine'}: {error}. Give the address of a running one "
            "(address, or RAY_ADDRESS), or none to start one here"
        ) from error


def start_actor(
    share: Mapping[str, float], kind: str, path: str, options: dict[str, Any], python: str
) -> tuple[Any, Any]:
    """An actor and the reference to what its opening came to; both may have to wait for a place."""
    others = {name: amount for name, amount in share.items() if name not in ("CPU", "GPU")}
    # No restarts and no retries of Ray's own: they wait for the actor's place, the pool goes on with others.
    actor_class: Any = ray.remote(Replica)
    actor = actor_class.options(
        num_cpus=share["CPU"], num_gpus=share["GPU"], resources=others, scheduling_strategy="SPREAD"
    ).remote()
    return actor, actor.open.remote(kind, path, options, python)


def room(nodes: Mapping[str, float], share: Mapping[str, float]) -> int:
    """Actors that fit into the resources of a cluster; at least 1, which waits for a place.

    Examples:
        >>> room({"CPU": 16, "GPU": 2}, {"CPU": 4, "GPU": 1})
        2
        >>> room({"CPU": 2}, {"CPU": 1, "GPU": 0})
        2
    """
    fits = [int(nodes.get(name, 0.0) // amount) for name, amount in share.items() if amount]
    return max(1, min(fits, default=1))


def counted(first: Usage, sign: int, second: Usage) -> Usage:
    """`first` with the counters of `second` added (1) or subtracted (-1); all else as it is.

    Examples:
        >>> counted(Usage(prompt_tokens=3, num_gpus=1), -1, Usage(prompt_tokens=2, num_gpus=1))
        ... # doctest: +ELLIPSIS
        Usage(prompt_tokens=1, ..., num_gpus=1, ...)
    """
    extra = {
        name: first.extra.get(name, 0.0) + sign * second.extra.get(name, 0.0)
        for name in {**first.extra, **second.extra}
    }
    counts = {name: getattr(first, name) + sign * getattr(second, name) for name in COUNTERS}
    return replace(first, **counts, extra=extra)
