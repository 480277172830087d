"""How several processes become one fit: joining those that a launcher has started, or starting some on this machine.

::

    torchrun, Ray Train, ...   an initialised process group, or RANK and WORLD_SIZE   --joined()--> Grouped
    srun                       SLURM_PROCID and SLURM_STEP_NUM_TASKS                  --joined()--> Grouped
    nothing of the kind                                                               --joined()--> Alone
    run(4, clf.fit, X, y)      torch's own launcher starts 4 processes, which join

Nothing is left behind: groups that were made here are gone when ``joined`` ends, and one that was there is as before.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from softmaxnet.communicator import Alone, Communicator, Grouped, ProcessLostError
from softmaxnet.errors import ResourceError, UsageError
from softmaxnet.machine import available_threads

__all__ = ["Place", "in_step", "joined", "place_of", "run"]

JOIN_SECONDS = 600.0
"""Within which every process must have come [s]."""
SHUTDOWN_SECONDS = 10
"""After which the launcher kills processes that do not end, where another has [s]."""
_names = itertools.count()
_stores: dict[object, Any] = {}
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, and where they meet.

    ``meeting`` is a URL as ``torch.distributed.init_process_group`` takes it.
    """

    rank: int
    size: int
    local_rank: int
    meeting: str


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Return the place that a launcher has given to this process; None where none has started it among others.

    Examples
    --------
    >>> place_of({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    Place(rank=1, size=2, local_rank=0, meeting='env://')
    >>> place_of({"WORLD_SIZE": "2"}) is None
    True
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names, meeting = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "env://"
    elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        # Not SLURM_NTASKS, which a batch script has as well, before srun starts anything.
        names, meeting = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), ""
    else:
        return None
    rank, size, local_rank = (_whole(name, environment.get(name, "0")) for name in names)
    if size == 1 and rank == 0:
        return None
    if not 0 <= rank < size:
        raise UsageError(
            f"{names[0]} is {rank} and {names[1]} is {size}, which do not fit: processes are counted from 0"
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if meeting and missing:
        raise UsageError(
            f"{names[1]} is {size}, but {' and '.join(missing)} is not set, where the processes are to meet",
            hint="Start them with torchrun, which sets it.",
        )
    return Place(rank, size, local_rank, meeting or _slurm_meeting(environment))


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"the environment variable {name} must be a whole number. Got {text!r} instead")
    return int(text)


def _slurm_meeting(environment: Mapping[str, str]) -> str:
    """Return the first host of a SLURM step and a port made from the number of the job."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "localhost")
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes.replace("[", "[", 1)).split(",")[0]
    host = environment.get("MASTER_ADDR", first)
    job = _whole("SLURM_JOB_ID", environment.get("SLURM_JOB_ID", "0"))
    return f"tcp://{host}:{environment.get('MASTER_PORT', str(20000 + job % 20000))}"


@contextmanager
def joined() -> Iterator[Communicator]:
    """Yield what this process reaches the others of the same fit by; :class:`Alone` where there are none.

    An error on one of them ends it on every one: with the same error where it could be told, else with
    :class:`ProcessLostError`. It ends well only where every one has come to its end.

    Raises
    ------
    UsageError
        For a rank or a number of processes in the environment that cannot be.
    ResourceError
        Where the other processes do not come.
    """
    is_there = _is_initialised()
    place = None if is_there else place_of(os.environ)
    if not is_there and place is None:
        yield Alone()
        return
    if place is not None:
        _initialise(place)
    try:
        with _together(_local_rank() if place is None else place.local_rank) as communicator:
            yield communicator
    finally:
        if place is not None:
            import torch.distributed as dist

            dist.destroy_process_group()


@contextmanager
def _together(local_rank: int) -> Iterator[Communicator]:
    import torch.distributed as dist

    if dist.get_world_size() == 1:
        yield Alone()
        return
    communicator = Grouped(str(next(_names)), local_rank=local_rank)
    try:
        yield communicator
        communicator.barrier()
    except BaseException as error:
        if communicator.close(error):
            error.is_told = True  # type: ignore[attr-defined]
        raise
    communicator.close()


def in_step(method: Method) -> Method:
    """Return a method that joins the other processes for as long as it runs and is passed the ``communicator``.

    One that is given a communicator by its caller joins nothing.
    """

    @functools.wraps(method)
    def together(self: Any, *args: Any, **given: Any) -> Any:
        if "communicator" in given:
            return method(self, *args, **given)
        with joined() as communicator:
            return method(self, *args, **given, communicator=communicator)

    return cast(Method, together)


def _is_initialised() -> bool:
    """Whether this process has a process group already; PyTorch is not imported to find out."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _local_rank() -> int:
    text = os.environ.get("LOCAL_RANK", "0")
    return int(text) if text.isdigit() else 0


def _initialise(place: Place) -> None:
    import torch.distributed as dist

    timeout = timedelta(seconds=JOIN_SECONDS)
    try:
        # A prefix of its own for each fit: what one has left in the store must not be read by the next.
        base, name = _store(place, timeout), f"softmaxnet-{next(_names)}"
        store = dist.PrefixStore(name, base)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ResourceError(
            f"process {place.rank} could not join the {place.size} processes that were expected ({reason})",
            hint="Every one must be started within "
            f"{JOIN_SECONDS / 60:.0f} minutes, with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT.",
        ) from error


def _store(place: Place, timeout: timedelta) -> Any:
    """Return the store at the meeting place, which stays open: several fits in a row meet at the same port."""
    from torch.distributed.rendezvous import rendezvous

    key = (place, os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"))
    if key not in _stores:
        _stores[key] = next(iter(rendezvous(place.meeting, place.rank, place.size, timeout=timeout)))[0]
    return _stores[key]


# --- starting processes on this machine ---------------------------------------------------------------------------


def run(n_processes: int, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call a function in several new processes on this machine at the same time; return what the first one returns.

    Function, arguments and result are pickled, and the calling program needs its ``if __name__ == "__main__":``. The
    processes share the processor's threads.

    Parameters
    ----------
    n_processes : int
    function : callable
        For instance ``clf.fit`` of an unfitted classifier, whose result is the fitted one.

    Raises
    ------
    ProcessLostError
        Where one of them ends by a signal, such as that of a system that is out of memory.
    """
    if n_processes < 1:
        raise UsageError(f"the number of processes must be 1 or more. Got {n_processes} instead.")
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with _quiet_launcher(max(available_threads() // n_processes, 1)):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=n_processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port; the launcher's default waits for one that nobody opens
            max_restarts=0,
            monitor_interval=0.1,
        )
        try:
            results = elastic_launch(config, _call)(function, args, keywords)
        except ChildFailedError as error:
            raise _lost(error, n_processes) from None
    is_done, value = results[0]
    if not is_done:
        raise value
    return value


def _call(function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[bool, Any]:
    """Return what the function returns or raises, in the first process only: the others' is the same."""
    try:
        value = function(*args, **keywords)
    except Exception as error:
        return False, error
    return True, value if os.environ["RANK"] == "0" else None


@contextmanager
def _quiet_launcher(n_threads: int) -> Iterator[None]:
    """Give each process its share of the threads; put back signal handlers, environment and logging afterwards."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers} if is_main else {}
    environment, disabled = dict(os.environ), logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it logs the same failures that are raised here
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    try:
        yield
    finally:
        logging.disable(disabled)
        for name in set(os.environ) - set(environment):  # the launcher sets some of its own
            del os.environ[name]
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _lost(error: Any, n_processes: int) -> ProcessLostError:
    """Return which process ended in which way."""
    rank, failure = min(error.failures.items(), key=lambda item: item[1].timestamp)
    code = failure.exitcode
    how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    return ProcessLostError(f"process {rank} of {n_processes} {how}")
