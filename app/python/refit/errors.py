"""What goes wrong, as exceptions. The process and its tensors live on; what a session can still do is said with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refit.session import Proof


class Error(RuntimeError):
    """Any failure of refit. The text says what is wrong and what to do about it.

    tensor: the tensor, parameter or storage that it is about, or None.
    rank: the world rank that it is about, or None.
    """

    def __init__(self, text: str, *, tensor: str | None = None, rank: int | None = None) -> None:
        super().__init__(text)
        self.tensor = tensor
        self.rank = rank


class DataError(Error):
    """Wrong data: a proof that failed, or ranks whose weights or inputs differ.

    proof: what the proof found, or None where it was no proof.
    """

    proof: Proof | None = None


class UsageError(Error):
    """A mistake in an argument: names, shapes, dtypes, layouts. The session goes on where there is one."""


class RuntimeFailure(Error):
    """A peer that is gone or late, too little memory, the network. The session is over: close it and make another."""


class UnavailableError(Error):
    """This build or machine lacks what is asked for."""


# By refit_status of embed/refit.h.
_OF_STATUS: dict[int, type[Error]] = {1: DataError, 2: UsageError, 3: RuntimeFailure, 77: UnavailableError}


def of_status(status: int, text: str, tensor: str, rank: int) -> Error:
    """Makes the exception of a failure of the C library, whose "" and -1 stand for none."""
    return _OF_STATUS.get(status, Error)(text, tensor=tensor or None, rank=rank if rank >= 0 else None)
