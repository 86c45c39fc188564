"""How the processes of a world find each other: one all-gather of bytes, by whatever the caller has.

It is used once for each world, to exchange addresses. From then on the processes talk over connections of their own, so
that one that dies or hangs is noticed.
"""

from __future__ import annotations

import atexit
import importlib
import os
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from refit import _refit
from refit.errors import UsageError


class Control:
    """The processes of a world. All of them make one, with their own rank; sessions over it are made and closed in the
    same order everywhere. It may outlive its sessions and have several at a time.

    rank, size: world rank of this process, and their number.
    all_gather: collective: takes this process's bytes and returns those of all, in order of rank; all are of one length.
    interface: network interface through which the others reach this process, such as "eth0"; else the environment's
        REFIT_SOCKET_IFNAME, or the first that is up and not the loopback.

    It cannot be pickled, and belongs to the process that made it: one that was forked makes its own.
    """

    def __init__(
        self, rank: int, size: int, all_gather: Callable[[bytes], Sequence[bytes]], *, interface: str | None = None
    ) -> None:
        if not 0 <= rank < size:
            raise UsageError(f"rank {rank} of {size} processes: ranks are 0 to {size - 1}", rank=rank)
        self.rank = rank
        self.size = size
        self._all_gather = all_gather
        self._interface = interface
        self._world: _refit.World | None = None
        self._timeout = 0.0
        self._pid = os.getpid()
        _controls.add(self)

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<refit.Control: rank {self.rank} of {self.size}>"

    def __reduce__(self) -> str:
        raise TypeError("a refit.Control belongs to its process: make one in each, with its own rank")

    def world(self, timeout: float) -> _refit.World:
        """The connections to the others. Collective where there are none yet, they were lost, or `timeout` is another one.

        timeout: seconds that a process may keep the others waiting; 0 = for ever.
        """
        if os.getpid() != self._pid:
            raise UsageError(f"this refit.Control was made by process {self._pid}, before a fork: make another one here")
        if self._world is None or self._timeout != timeout:
            options = f"timeout={timeout:g}" + (f" interface={self._interface}" if self._interface else "")
            self.close()
            self._world = _refit.World(self.rank, self.size, self._gather, options)
            self._timeout = timeout
        return self._world

    def forget(self, world: _refit.World) -> None:
        """Closes connections that failed, so that the next session makes new ones."""
        if self._world is world:
            self.close()

    def close(self) -> None:
        """Says goodbye to the others and closes the connections, once the sessions over them are closed too; not
        collective. The next session makes new ones. A process that ends without it counts as one that died, for others
        that still wait for anybody; Python's exit does it by itself, but not os._exit."""
        world, self._world = self._world, None
        if world is not None and os.getpid() == self._pid:
            world.close()

    def _gather(self, mine: bytes) -> bytes:
        parts = [bytes(part) for part in self._all_gather(mine)]
        if len(parts) != self.size or any(len(part) != len(mine) for part in parts):
            lengths = ", ".join(str(len(part)) for part in parts)
            raise UsageError(
                f"all_gather returned parts of {lengths or 'no'} bytes, not {self.size} of {len(mine)}: it must return the bytes of all "
                "ranks, in order of rank"
            )
        return b"".join(parts)


_controls: weakref.WeakSet[Control] = weakref.WeakSet()


@atexit.register
def _say_goodbye() -> None:
    for control in list(_controls):
        control.close()


def from_store(
    store: Any, rank: int, size: int, prefix: str = "refit", *, timeout: float | None = None, interface: str | None = None
) -> Control:
    """Finds the others through a store of keys and values: torch.distributed's TCPStore, FileStore, ..., which needs no
    process group, so that trainer and engine may have torches of their own; or any object with set(key, bytes) and
    get(key), which waits for the key or returns None while it is not there.

    rank, size: world rank of this process, and their number. prefix: of the keys, the same on all processes, and another
    one for each world that shares the store. Worlds are told apart by their number, which a store with add(key, 1) keeps,
    so that an engine that is started anew finds the others there; without it, use a prefix once per process.
    timeout: seconds to wait for the others to come; None: as long as the store waits.

    Errors: those of the store, and TimeoutError.
    """
    rounds = 0

    def get(key: str) -> bytes:
        if timeout is not None and hasattr(store, "wait"):
            store.wait([key], timedelta(seconds=timeout))
        end = None if timeout is None else time.monotonic() + timeout
        while (value := store.get(key)) is None:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"nobody has set {key} within {timeout:g} s: has that rank started, with prefix {prefix}?")
            time.sleep(0.01)
        return bytes(value)

    def all_gather(mine: bytes) -> list[bytes]:
        nonlocal rounds
        rounds = int(store.add(f"{prefix}/rounds/{rank}", 1)) if hasattr(store, "add") else rounds + 1
        store.set(f"{prefix}/{rounds}/{rank}", mine)
        return [get(f"{prefix}/{rounds}/{peer}") for peer in range(size)]

    return Control(rank, size, all_gather, interface=interface)


def from_torch(group: Any = None, *, interface: str | None = None) -> Control:
    """Finds the others through a process group of torch.distributed, of any backend: the default group, or `group`. Its
    ranks are the world's. With NCCL, torch.cuda.set_device must have been called."""
    distributed: Any = importlib.import_module("torch.distributed")

    def all_gather(mine: bytes) -> list[bytes]:
        parts: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(parts, mine, group=group)
        return parts

    return Control(distributed.get_rank(group), distributed.get_world_size(group), all_gather, interface=interface)


def from_mpi(comm: Any, *, interface: str | None = None) -> Control:
    """Finds the others through a communicator of mpi4py, whose ranks are the world's."""
    return Control(comm.Get_rank(), comm.Get_size(), comm.allgather, interface=interface)
