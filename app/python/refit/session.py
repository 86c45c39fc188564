"""A session: a plan carried out, again and again, over tensors that the caller owns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from refit import _refit
from refit.control import Control
from refit.errors import DataError, Error, UnavailableError, UsageError, of_status
from refit.plan import Plan, Side, plain
from refit.tensors import Memory, address, describe, wait_for

Tensors = Mapping[str, Any]
Result = TypeVar("Result")


class Seconds(NamedTuple):
    """Seconds of one refit on this process, from leaving its barrier on."""

    total: float
    quantise: float  # before anything is sent
    bulk: float
    misc: float
    remap: float  # where memory had moved


class Wrong(NamedTuple):
    """A tensor of a gen rank that is not what it should be."""

    tensor: str
    gen_rank: int
    elements_wrong: int
    first_index: int  # in the tensor's Hugging Face shape; -1: not counted


@dataclass(frozen=True)
class Proof:
    """What a proof found; equal on all processes."""

    tensors: int
    tensors_wrong: int
    elements: int  # stored over all gen ranks
    elements_wrong: int
    kl_max: float  # nats, of the KL proxy; 0 for equal bits
    kl_mean: float
    train_digest: str  # fingerprints over all tensors, equal where the bits are
    gen_digest: str
    wrong: tuple[Wrong, ...] = ()  # the first 1,000


@dataclass(frozen=True)
class Version:
    """Which weights there are."""

    number: int
    plan: str  # hash of the plan that brought them, in hexadecimal digits
    digest: str | None  # their fingerprint, where a proof of this version has found it


class _Memories:
    """The tensors that a process has on one side, and where they were when the library was last told.

    wanted: names of those that the plan lists for it. Of all others the library gets the names.
    """

    def __init__(self, side: Side, given: Tensors | Callable[[], Tensors], wanted: frozenset[str]) -> None:
        self.side = side
        self.held: dict[str, Any] = {}  # kept alive for as long as the library may use them
        self.devices: frozenset[str] = frozenset()
        self._given = given
        self._wanted = wanted
        self._known: dict[str, int] | None = None  # addresses; None: the library has refused them, or not been told

    def read(self) -> tuple[list[tuple[str, int, tuple[int, ...], tuple[int, ...], str]], Exception | None]:
        """All tensors as the library takes them, and what is wrong with those that it can't take (with all of them, about
        the first). Those are left out: the library says on all processes that they are missing, and none waits."""
        self._known = None
        try:
            now = self._now()
        except Exception as error:
            return [], error
        memories: dict[str, Memory] = {}
        refused: list[Error] = []
        for name, tensor in now.items():
            try:
                memories[name] = describe(name, tensor, written=self.side == "gen")
            except Error as error:
                if name in self._wanted:
                    refused.append(error)
                else:
                    memories[name] = Memory(0, (), (), "", "cpu")
        tensors = [(name, memory.address, memory.shape, memory.strides, memory.dtype) for name, memory in memories.items()]
        if refused:
            first = refused[0]
            return tensors, type(first)("\n".join(str(error) for error in refused), tensor=first.tensor)
        self.held = {name: now[name] for name in self._wanted if name in now}
        self._known = {name: memories[name].address for name in self.held}
        self.devices = frozenset(memories[name].device for name in self.held)
        return tensors, None

    def forget(self) -> None:
        """Has the tensors count as moved, whatever they are next."""
        self._known = None

    def moved(self) -> bool:
        """Whether tensors are other ones, or lie elsewhere, than when they were read last."""
        if self._known is None:
            return True
        now, held = self._now(), self.held
        return any(now.get(name) is not held[name] or address(held[name]) != at for name, at in self._known.items())

    def _now(self) -> Tensors:
        now = self._given() if callable(self._given) else self._given
        if not isinstance(now, Mapping):
            raise UsageError(f"{self.side} is a {type(now).__name__}: give a mapping of names to tensors, or a callable that returns one")
        for name in now:
            if not isinstance(name, str) or "\0" in name:
                raise UsageError(f"{self.side}: a tensor's name is {name!r}: names are str, without NUL")
        return now


_dropped: list[list[_Memories]] = []  # tensors of sessions that nobody closed, which the library still has


class Session:
    """A plan carried out over tensors of this process and the others of its world. Collective, as all its methods are that
    don't say otherwise: all processes call them in the same order, and a failure of one of them is raised by all, as
    far as they live.

        with refit.Session(plan, control, gen=dict(model.named_parameters())) as session:
            session.refit()
            session.prove()

    train, gen: this process's tensors on the sides that it is a rank of, by the engine's own names: all that
        Plan.storages lists; others are left alone (notes says so). Torch tensors, numpy arrays (with ml_dtypes' bfloat16
        and float8 types) or objects with DLPack. They are used where they lie and never copied, so they must be dense,
        with dimensions in any order. A mapping is looked at again before each refit, so that a tensor that was replaced
        or moved is noticed; a callable that returns one is called before each refit instead. The session keeps the
        tensors alive; do not free or resize their storage behind its back.
    executor: direct stores into the engines' memory, which must lie in memory that others can map (on CPUs:
        share_memory_() of torch, refit.shared_memory); p2p sends and receives; golden is slow and simple; auto chooses.
    fan_out: gen ranks feed each other; for direct, where all memory can be mapped.
    delta: a refit sends what has changed since the one before, in the form with the fewest bytes (auto) or as index or
        bitmap; p2p, which it chooses. The trainer keeps a copy of what it sent.
    timeout: seconds that others may keep this process waiting before it fails; 0 = for ever. Another one than that of the
        control's last session makes new connections, on all together.
    streams, misc_buffer_bytes: as a case file's [refit].

    Errors: UsageError, with the tensor, and all that is wrong: missing, of another shape or dtype, not dense, in an open
    session already. RuntimeFailure: a peer that is gone or late, memory. After any failure the process and its tensors
    live on. A RuntimeFailure ends the session: close it, and make another one with the same control. So does what a
    signal's handler raises while a call waits for others (Ctrl-C's KeyboardInterrupt): the others get a RuntimeFailure.
    """

    def __init__(
        self,
        plan: Plan,
        control: Control,
        *,
        train: Tensors | Callable[[], Tensors] | None = None,
        gen: Tensors | Callable[[], Tensors] | None = None,
        executor: str = "auto",
        fan_out: bool = False,
        delta: str = "off",
        timeout: float = 60,
        streams: int | None = None,
        misc_buffer_bytes: int | None = None,
    ) -> None:
        self._session: _refit.Session | None = None
        self._failed = False
        self._pid = os.getpid()
        self._control = control
        options = f"executor={plain(executor)}"
        if fan_out:
            options += " fan_out=true"
        if delta != "off":
            options += f" delta={plain(delta)}"
        if streams is not None:
            options += f" streams={streams}"
        if misc_buffer_bytes is not None:
            options += f" misc_buffer_bytes={misc_buffer_bytes}"
        sides: tuple[tuple[Side, Any], ...] = (("train", train), ("gen", gen))
        self._sides = []
        for side, given in sides:
            if given is not None:
                rank = plan.rank_of(side, control.rank)
                wanted = frozenset() if rank is None else frozenset(storage.name for storage in plan.storages(side, rank))
                self._sides.append(_Memories(side, given, wanted))
        self._world = control.world(timeout)
        memories: dict[str, list[Any]] = {}
        refused: Exception | None = None
        for held in self._sides:
            memories[held.side], wrong = held.read()
            refused = refused or self._mine(wrong)
        try:
            wait_for(self._devices())
            self._session = _refit.Session(plan._plan, self._world, memories.get("train"), memories.get("gen"), options)
        except (DataError, UsageError, UnavailableError) as error:
            if refused is None:
                raise
            raise refused from error
        except BaseException:
            control.forget(self._world)
            raise
        if refused is not None:
            self.close()
            raise refused

    def __repr__(self) -> str:
        state = "closed" if self._session is None else "failed" if self._failed else "open"
        return f"<refit.Session: rank {self._control.rank} of {self._control.size}, {state}>"

    def __reduce__(self) -> str:
        raise TypeError("a refit.Session belongs to its process and its world: make one in each process")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_session", None) is not None and os.getpid() == self._pid:
            _dropped.append(self._sides)
            warnings.warn(f"{self!r} was not closed: it stays, with its tensors, until the process ends", ResourceWarning, source=self)

    @property
    def closed(self) -> bool:
        """Whether close was called. Not collective."""
        return self._session is None

    @property
    def notes(self) -> list[str]:
        """What a reader should know, a sentence each: the executor that was chosen and why, what could not be mapped,
        tensors that were left alone, memory that moved. Not collective."""
        return self._open().notes().splitlines()

    def refit(self, version: int | None = None) -> Seconds:
        """Moves all weights from the trainer to the engines. They are version `version` of train ranks, 0 or more (what gen
        ranks give is not looked at), or one more than the last one, from 1 on. It begins with a barrier; on return this process's part is
        complete, and visible to its device. The trainer's weights must be written before it; torch's work on the devices
        of the tensors is waited for. Errors: as of the session, where tensors moved; RuntimeFailure."""
        return Seconds(*self._collective(lambda session: session.refit(version)))

    @property
    def version(self) -> Version | None:
        """The version that this process has: a gen rank holds it, a train rank sent it last; None: none, or memory that
        has moved since. Not collective."""
        number, plan, digest = self._open().version()
        return None if number < 0 else Version(number, plan, digest or None)

    def set_version(self, number: int | None) -> None:
        """Says which version the memory of this gen rank holds, where no refit of this session has brought it; None: nothing
        known, e.g. after loading a checkpoint into it. Not collective. Errors: UsageError, on a train rank."""
        self._open().set_version(-1 if number is None else number)

    def require_version(self, number: int) -> None:
        """Requires that all gen ranks hold version `number`: before they serve. Errors: DataError, with those that do not
        and what they hold."""
        self._collective(lambda session: session.require_version(number))

    def prove(self) -> Proof:
        """Compares what the engines hold with what the trainer holds, every element, by fingerprints. Errors: DataError
        where something is wrong: its proof says what; and as of refit."""
        found, wrong, failed = self._collective(lambda session: session.prove())
        proof = Proof(**found, wrong=tuple(Wrong(*one) for one in wrong))
        if failed is not None:
            error = of_status(*failed)
            assert isinstance(error, DataError)
            error.proof = proof
            raise error
        return proof

    def digest(self) -> str:
        """The fingerprint of the weights that the engines hold: 32 hexadecimal digits, equal for equal weights in any layout
        of the same precision. Errors: as of refit."""
        return self._collective(lambda session: session.digest())

    def close(self) -> None:
        """Ends the session; the tensors and the control stay. Collective, unless a call of the session has failed or it is
        closed already. In a process that was forked from the one that made it, it only forgets it."""
        session, self._session = self._session, None
        if session is not None and os.getpid() == self._pid:
            session.close()
        self._sides.clear()

    def _open(self) -> _refit.Session:
        if os.getpid() != self._pid:
            raise UsageError(f"this refit.Session was made by process {self._pid}, before a fork: make another one here")
        if self._session is None:
            raise UsageError("this refit.Session is closed: make another one")
        return self._session

    def _collective(self, verb: Callable[[_refit.Session], Result]) -> Result:
        """Calls a verb, after telling the library of tensors that moved."""
        session = self._open()
        until_then = [side.held for side in self._sides]  # the others have what was replaced mapped until the verb
        refused = self._tell_moves(session)
        wait_for(self._devices())
        try:
            result = verb(session)
        except (DataError, UsageError, UnavailableError) as error:  # of which the session survives
            if refused is None:
                raise
            raise refused from error
        except BaseException:  # also of a signal's handler, such as Ctrl-C's
            self._failed = True
            self._control.forget(self._world)
            raise
        until_then.clear()
        if refused is not None:  # of tensors that the library has no use for
            raise refused
        return result

    def _tell_moves(self, session: _refit.Session) -> Exception | None:
        """Tells the library where tensors lie that are other ones than before, or lie elsewhere. Returns what was wrong with
        them: the next verb then fails on all processes, and none waits for this one."""
        refused: Exception | None = None
        for side in self._sides:
            try:
                if not side.moved():
                    continue
            except Exception:  # it will be said when they are read
                pass
            try:
                memories, wrong = side.read()
                refused = refused or self._mine(wrong)
                session.move(side.side == "gen", memories)
            except Error as error:
                refused = refused or self._mine(error)
                side.forget()
            except BaseException:  # the library may not have been told
                side.forget()
                raise
        return refused

    def _mine(self, error: Exception | None) -> Exception | None:
        """An error that is about this process's tensors."""
        if isinstance(error, Error):
            error.rank = self._control.rank
        return error

    def _devices(self) -> frozenset[str]:
        return frozenset().union(*(side.devices for side in self._sides))
