"""A plan: which bytes go from whom to whom."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

from refit import _refit
from refit.errors import UsageError

Side = Literal["train", "gen"]


def plain(text: str, *, blanks: bool = False) -> str:
    """A text that the library reads to its end. Errors: UsageError, NUL; without `blanks` anything but one word."""
    if "\0" in text or not (blanks or text.isidentifier()):
        raise UsageError(f"{text!r} is not {'a text without NUL' if blanks else 'one word'}")
    return text


class Storage(NamedTuple):
    """A tensor that a rank of one side must hold, under the engine's own name."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors' files name it: "BF16", "F8_E4M3", "F32"


class Plan:
    """Says which bytes go from whom to whom. A value: no communication, no weights, no device. All processes of a world
    make the same one.

        plan = refit.Plan("/data/Qwen3-8B", train="megatron TP2xPP2", gen="vllm TP4")

    config: path of a model's config.json, or of the folder that it is in.
    train, gen: a trainer and an engine, its layout, and options as a case file's [train] and [gen] have them:
        "fsdp FSDP4 recipe=torchtitan", "vllm TP2 precision=fp8". Several engines are a list of such texts; their ranks
        follow each other.
    policy: which tensors take the bulk path: all, whitelist, blacklist or ffn. colocated: world rank r is train rank r and gen
        rank r; else train ranks come first and gen ranks follow. layers: only so many of the model's layers; 0 is all.

    Errors: UsageError, with every rule that a layout breaks for the model.
    """

    def __init__(
        self,
        config: str | os.PathLike[str],
        *,
        train: str,
        gen: str | Sequence[str],
        policy: str = "all",
        colocated: bool = False,
        layers: int = 0,
    ) -> None:
        engines = [gen] if isinstance(gen, str) else list(gen)
        options = f"policy={plain(policy)}"
        if colocated:
            options += " colocated=true"
        if layers:
            options += f" layers={layers}"
        texts = [plain(text, blanks=True) for text in (os.fspath(config), train, *engines)]
        self._plan = _refit.Plan(texts[0], texts[1], texts[2:], options)
        self._sizes = self._plan.sizes()
        self._text = f"refit.Plan({os.fspath(config)!r}, train={train!r}, gen={engines if len(engines) != 1 else gen!r})"
        self.colocated = colocated

    def __repr__(self) -> str:
        return self._text

    @property
    def ranks(self) -> int:
        """Processes of the world: of both sides, or of the larger one where they are colocated."""
        return self._sizes["ranks"]

    @property
    def train_ranks(self) -> int:
        """Ranks of the trainer, which are the world's first."""
        return self._sizes["train_ranks"]

    @property
    def gen_ranks(self) -> int:
        """Ranks of all engines."""
        return self._sizes["gen_ranks"]

    @property
    def sizes(self) -> dict[str, int]:
        """What moves: tensors of the model; payload_bytes, each tensor once; wire_bytes between ranks in one refit, and
        copies, the boxes they are made of; egress_bytes_max and ingress_bytes_max of the busiest sender and receiver;
        misc_bytes of the payload, which is gathered and broadcast; ranks, train_ranks, gen_ranks."""
        return dict(self._sizes)

    def rank_of(self, side: Side, world_rank: int) -> int | None:
        """The rank that a process has on a side, or None where it is none of it."""
        rank = world_rank - (self.train_ranks if side == "gen" and not self.colocated else 0)
        return rank if 0 <= rank < (self.gen_ranks if side == "gen" else self.train_ranks) else None

    def storages(self, side: Side, rank: int) -> list[Storage]:
        """What rank `rank` of a side must hold. Errors: UsageError, no such rank or side."""
        if side not in ("train", "gen"):
            raise UsageError(f"there is no side {side!r}: train and gen are the two")
        return [Storage(name, tuple(shape), dtype) for name, shape, dtype in self._plan.storages(side == "gen", rank)]

    def explain(self, tensor: str) -> str:
        """Where a tensor's pieces lie on both sides and the copies that move them, by its Hugging Face name or a glob of
        such names. Errors: UsageError, a name that matches nothing, with the nearest ones."""
        return self._plan.explain(plain(tensor, blanks=True))

    def bound(self, send: float, receive: float) -> float:
        """The least seconds of a refit where every rank sends and receives at most so many bytes/s at a time."""
        return self._plan.bound(send, receive)
