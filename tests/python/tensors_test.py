"""What the module takes as a tensor: numpy's arrays, objects with DLPack, torch's tensors (where torch is installed), in any
order of dimensions, and what it refuses."""

import importlib.util
import unittest

import ml_dtypes
import numpy as np
import refit
import world
from refit.tensors import address, describe

NATIVE = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


class Exporter:
    """An object that has DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keys):
        return self.array.__dlpack__(**keys)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Described(unittest.TestCase):
    def refused(self, tensor, words, written=True, kind=refit.UsageError):
        with self.assertRaises(kind) as caught:
            describe("the.name", tensor, written=written)
        self.assertEqual(caught.exception.tensor, "the.name")
        self.assertRegex(str(caught.exception), f"^the.name.*{words}")

    def test_numpy(self):
        for name, dtype in NATIVE.items():
            array = np.zeros((4, 6), dtype)
            at = array.__array_interface__["data"][0]
            self.assertEqual(describe("a", array, written=True), (at, (4, 6), (6, 1), name, "cpu"))
            part = array[1:, ::2].T
            self.assertEqual(describe("a", part, written=True), (at + 6 * array.itemsize, (3, 3), (2, 6), name, "cpu"))
            self.assertEqual(address(array), at)
        self.assertEqual(describe("a", np.zeros(()), written=True)[1:4], ((), (), "F64"))

    def test_dlpack(self):
        for name, dtype in NATIVE.items():
            if dtype.__module__ == "ml_dtypes":
                continue
            array = np.zeros((4, 6), dtype)[1:, ::2].T
            self.assertEqual(describe("a", Exporter(array), written=True), describe("a", array, written=True), name)
            self.assertEqual(address(Exporter(array)), address(array))

    def test_what_is_refused(self):
        frozen = np.zeros(3)
        frozen.flags.writeable = False
        for tensor in (frozen, Exporter(frozen)):
            self.refused(tensor, "read-only")
            self.assertEqual(describe("a", tensor, written=False).address, address(frozen))
        self.refused(np.zeros(3, ">f4"), "byte order", written=False)
        self.refused(np.zeros(3, np.complex64), "complex64")
        self.refused(Exporter(np.zeros(3, np.complex64)), "dtype code 5")
        self.refused(np.zeros(3, "i4,f8")["f1"], "strides")
        self.refused([1.0], "list")
        self.refused(None, "NoneType")

    def test_shared_memory(self):
        memory = np.asarray(refit.shared_memory(4096))
        self.assertEqual((memory.dtype, memory.shape, memory.flags.writeable), (np.uint8, (4096,), True))
        memory[:] = 7
        view = memory.view(ml_dtypes.bfloat16)[5:]
        del memory
        self.assertEqual(view.view(np.uint8).sum(), 7 * (4096 - 10))


@unittest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
class Torch(Described):
    def test_torch(self):
        import torch

        for name, dtype in NATIVE.items():
            tensor = torch.zeros((4, 6), dtype=getattr(torch, np.dtype(dtype).name))
            self.assertEqual(describe("a", tensor, written=True), (tensor.data_ptr(), (4, 6), (6, 1), name, "cpu"))
            part = tensor[1:, ::2].T
            size = tensor.element_size()
            self.assertEqual(describe("a", part, written=True), (tensor.data_ptr() + 6 * size, (3, 3), (2, 6), name, "cpu"))
        leaf = torch.nn.Parameter(torch.zeros(3))
        self.assertEqual(describe("a", leaf, written=True).address, leaf.data_ptr())

    def test_what_is_refused_of_torch(self):
        import torch

        self.refused(torch.zeros(3, device="meta"), "meta")
        self.refused(torch.zeros(3, 3).to_sparse(), "sparse")
        self.refused(torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8), "quantised")
        self.refused(torch.zeros(3, dtype=torch.complex64), "complex64")
        freed = torch.zeros(3)
        freed.untyped_storage().resize_(0)
        self.refused(freed, "no memory")

    def test_session(self):
        for rank, outcome in enumerate(world.run(2, torch_session)):
            self.assertEqual(outcome, (True, []), f"rank {rank}: {getattr(outcome, 'trace', outcome)}")


def torch_session(rank, folder):
    """Torch's tensors on both sides, the engine's in shared memory; one of them gets other memory on the way."""
    import torch

    plan = refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP1")
    weights = world.checkpoint(1)
    keys = {}
    if rank == 0:
        held = {name: torch.from_numpy(part.view(np.uint16)).view(torch.bfloat16) for name, part in world.fsdp(weights, 0, 1).items()}
        keys["train"] = {name: torch.nn.Parameter(tensor) for name, tensor in held.items()}
    else:
        described = plan.storages("gen", 0)
        held = {name: torch.zeros(shape, dtype=torch.bfloat16).share_memory_() for name, shape, _ in described}
        keys["gen"] = held
    with refit.Session(plan, world.control(rank, 2, folder), **keys) as session:
        is_direct = not any("cannot be mapped" in note for note in session.notes)
        session.refit()
        session.prove()
        if rank == 1:
            for tensor in held.values():
                tensor.data = torch.zeros_like(tensor)
        session.refit()
        session.prove()
    if rank == 0:
        return is_direct, []
    found = {name: tensor.view(torch.uint16).numpy() for name, tensor in held.items()}
    return is_direct, world.differences(found, world.vllm(weights, 0, 1))


def permuted(rank, folder):
    """Both sides' matrices as transposed views of what lies in memory in the plan's order, and an unknown tensor."""
    plan = refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP1")
    weights = world.checkpoint(1)
    keys = {}
    if rank == 0:
        held = world.fsdp(weights, 0, 1)
        keys["train"] = {name: part.T for name, part in held.items()}
    else:
        held = world.empty(plan, 0)
        keys["gen"] = {name: tensor.T for name, tensor in held.items()} | {"extra": np.ones(5, ">c16")}
    with refit.Session(plan, world.control(rank, 2, folder), **keys) as session:
        notes = session.notes
        session.refit()
        session.prove()
    wrong = world.differences(held, world.vllm(weights, 0, 1)) if rank == 1 else []
    return wrong, notes, rank == 0 or (keys["gen"]["extra"] == 1).all()


class Memory(unittest.TestCase):
    def test_dimensions_in_another_order_and_more_tensors(self):
        for rank, outcome in enumerate(world.run(2, permuted)):
            self.assertIsInstance(outcome, tuple, f"rank {rank}: {getattr(outcome, 'trace', outcome)}")
            wrong, notes, untouched = outcome
            self.assertEqual(wrong, [])
            self.assertTrue(untouched)
            if rank == 1:
                self.assertTrue(any("extra" in note for note in notes), notes)


if __name__ == "__main__":
    unittest.main()
