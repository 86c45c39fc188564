"""What the tests of the Python module share: processes that hold the weights of a small Qwen3, what those weights must be
in every layout (worked out here in numpy, without refit), and a store in files."""

import json
import math
import multiprocessing
import os
import pathlib
import tempfile
import time
import traceback

import ml_dtypes
import numpy as np
import refit

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "inputs" / "models" / "qwen3-0.6b-small"
LIMIT_SECONDS = 300  # of one world: guards against hangs, on the busiest machine

FORK = multiprocessing.get_context("fork")


class FileStore:
    """set and get alone, as refit.from_store asks for."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def path(self, key):
        return self.folder / key.replace("/", "_")

    def set(self, key, value):
        part = self.path(key).with_suffix(f".{os.getpid()}.part")
        part.write_bytes(value)
        part.rename(self.path(key))

    def get(self, key):
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            return None


class CountingStore(FileStore):
    """As torch.distributed's stores: get waits, and add counts."""

    def add(self, key, amount):
        path = self.path(key)
        count = int(path.read_text()) + amount if path.exists() else amount
        path.write_text(str(count))
        return count

    def wait(self, keys, timeout):
        end = time.monotonic() + timeout.total_seconds()
        while not all(self.path(key).exists() for key in keys):
            if time.monotonic() > end:
                raise TimeoutError(f"{keys} within {timeout}")
            time.sleep(0.002)


def run(size, body, *arguments):
    """Runs body(rank, folder, *arguments) in `size` processes. Returns what each returned, or the exception it raised, or
    the negative signal that ended it."""
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            mine, theirs = FORK.Pipe()
            process = FORK.Process(target=_run, args=(theirs, body, rank, folder, arguments))
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        end = time.monotonic() + LIMIT_SECONDS
        outcomes = []
        for pipe, process in zip(pipes, processes):
            try:
                outcome = pipe.recv() if pipe.poll(max(0, end - time.monotonic())) else TimeoutError("hangs")
            except EOFError:
                process.join(5)
                outcome = process.exitcode
            outcomes.append(outcome)
        for process in processes:
            process.kill()
            process.join()
    return outcomes


def _run(pipe, body, rank, folder, arguments):
    try:
        outcome = body(rank, folder, *arguments)
    except Exception as error:
        error.trace = "".join(traceback.format_exception(error))
        outcome = error
    for one in CONTROLS:
        one.close()
    pipe.send(outcome)


CONTROLS = []


def control(rank, size, folder, prefix="refit"):
    """A control, which is closed when the process ends."""
    CONTROLS.append(refit.from_store(FileStore(folder), rank, size, prefix, timeout=60))
    return CONTROLS[-1]


def meet(rank, size, folder):
    """Waits until all processes are here; once in each folder. The end of a verb is no such place: one that needs no more
    from others goes on."""
    store = FileStore(folder)
    store.set(f"here/{rank}", b"")
    while any(store.get(f"here/{peer}") is None for peer in range(size)):
        time.sleep(0.005)


# ---- The model, in Hugging Face's layout ----

CONFIG = json.loads((MODEL / "config.json").read_text())
HIDDEN, HEAD, HEADS, KV_HEADS = (CONFIG[key] for key in ("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads"))
INNER, VOCAB, LAYERS = CONFIG["intermediate_size"], CONFIG["vocab_size"], CONFIG["num_hidden_layers"]


def shapes():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (HIDDEN,)
        yield at + "post_attention_layernorm.weight", (HIDDEN,)
        yield at + "self_attn.q_proj.weight", (HEADS * HEAD, HIDDEN)
        yield at + "self_attn.k_proj.weight", (KV_HEADS * HEAD, HIDDEN)
        yield at + "self_attn.v_proj.weight", (KV_HEADS * HEAD, HIDDEN)
        yield at + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD)
        yield at + "self_attn.q_norm.weight", (HEAD,)
        yield at + "self_attn.k_norm.weight", (HEAD,)
        yield at + "mlp.gate_proj.weight", (INNER, HIDDEN)
        yield at + "mlp.up_proj.weight", (INNER, HIDDEN)
        yield at + "mlp.down_proj.weight", (HIDDEN, INNER)
    yield "model.norm.weight", (HIDDEN,)


def checkpoint(step):
    """All weights after a step: random bits of finite numbers below 2."""
    generator = np.random.default_rng(step)
    return {
        name: (generator.integers(0, 2**16, shape, np.uint16) & 0xBFFF).view(ml_dtypes.bfloat16) for name, shape in shapes()
    }


def fsdp(weights, rank, ranks):
    """What rank `rank` of FSDP2 holds: its part of each tensor's rows, as torch.chunk cuts them."""
    parts = {}
    for name, weight in weights.items():
        rows = math.ceil(len(weight) / ranks)
        parts[name] = weight[rank * rows : (rank + 1) * rows].copy()
    return parts


def vllm(weights, rank, ranks):
    """What rank `rank` of vLLM's TP holds: fused parameters, columns of row-parallel ones."""

    def rows(name):
        return np.split(weights[name], ranks)[rank]

    parts = {}
    for name, weight in weights.items():
        at = name.rpartition("proj.weight")[0]
        if not at:
            parts[name] = rows(name) if "embed_tokens" in name else weight
        elif at.endswith("q_"):
            parts[at[:-2] + "qkv_proj.weight"] = np.concatenate([rows(f"{at[:-2]}{part}_proj.weight") for part in "qkv"])
        elif at.endswith("gate_"):
            parts[at[:-5] + "gate_up_proj.weight"] = np.concatenate([rows(name), rows(f"{at[:-5]}up_proj.weight")])
        elif at.endswith(("o_", "down_")):
            parts[name] = np.split(weight, ranks, axis=1)[rank]
    return {name: np.ascontiguousarray(part) for name, part in parts.items()}


def empty(plan, rank, fill=0):
    """An engine's tensors before the first refit, in memory of its own."""
    return {name: np.full(shape, fill, ml_dtypes.bfloat16) for name, shape, _ in plan.storages("gen", rank)}


def shared(plan, rank):
    """The same in memory that other processes can map."""
    tensors = {}
    for name, shape, _ in plan.storages("gen", rank):
        memory = refit.shared_memory(2 * math.prod(shape))
        tensors[name] = np.asarray(memory).view(ml_dtypes.bfloat16).reshape(shape)
    return tensors


def differences(found, expected):
    """The names of tensors whose bits are not what they should be."""
    if found.keys() != expected.keys():
        return sorted(found.keys() ^ expected.keys())
    return [name for name in found if found[name].tobytes() != expected[name].tobytes()]
