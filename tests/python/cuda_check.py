"""The Python module on GPUs, with torch's tensors; not part of ctest, because it needs a GPU, torch and a build for CUDA:

    PYTHONPATH=build/cuda/python python3 tests/python/cuda_check.py

Processes share the first GPU. What arrives is compared with numpy's own fusing and cutting of the same weights (world.py).
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback

import refit
import torch
import world

SPAWN = multiprocessing.get_context("spawn")
DENSE = "model.layers.1.mlp.down_proj.weight"


def on_gpu(arrays):
    return {name: torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16).cuda() for name, array in arrays.items()}


def differences(found, expected):
    return [name for name, array in expected.items() if found[name].cpu().view(torch.int16).numpy().tobytes() != array.tobytes()]


def sides(rank, train_ranks, gen_ranks):
    """A plan, and this process's tensors: (plan, train, gen)."""
    plan = refit.Plan(world.MODEL, train=f"fsdp FSDP{train_ranks}", gen=f"vllm TP{gen_ranks}")
    train_rank, gen_rank = plan.rank_of("train", rank), plan.rank_of("gen", rank)
    train = None if train_rank is None else on_gpu(world.fsdp(world.checkpoint(0), train_rank, train_ranks))
    gen = None if gen_rank is None else {
        name: torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for name, shape, _ in plan.storages("gen", gen_rank)
    }  # fmt: skip
    return plan, train, gen


def train_step(step, rank, ranks, train):
    if train is not None:
        for name, tensor in on_gpu(world.fsdp(world.checkpoint(step), rank, ranks)).items():
            train[name].copy_(tensor)


def check(step, plan, rank, gen, gen_ranks):
    if gen is None:
        return
    wrong = differences(gen, world.vllm(world.checkpoint(step), plan.rank_of("gen", rank), gen_ranks))
    assert not wrong, wrong


def refits(rank, folder, train_ranks, gen_ranks):
    """Weights that change, in memory that is cut out of the allocator's blocks; then moved; then freed and allocated again."""
    plan, train, gen = sides(rank, train_ranks, gen_ranks)
    control = world.control(rank, plan.ranks, folder)
    with refit.Session(plan, control, train=train, gen=gen, executor="auto") as session:
        assert not [note for note in session.notes if "cannot be mapped" in note], session.notes
        for step in (1, 2):
            train_step(step, rank, train_ranks, train)
            session.refit()
            assert session.prove().elements_wrong == 0
            check(step, plan, rank, gen, gen_ranks)
        if gen is not None:  # another tensor under the same name
            gen[DENSE] = torch.zeros_like(gen[DENSE])
        train_step(3, rank, train_ranks, train)
        session.refit()
        assert any("moved, the first is " + DENSE in note for note in session.notes), session.notes
        session.prove()
        check(3, plan, rank, gen, gen_ranks)


def same_address(rank, folder):
    """Memory that is freed and allocated again at the same address is other memory: peers must not write to the old one."""
    plan, train, gen = sides(rank, 1, 1)
    if gen is not None:  # a block of its own
        gen[DENSE] = torch.zeros(64 << 20, dtype=torch.bfloat16, device="cuda")[: gen[DENSE].numel()].view(gen[DENSE].shape)
    with refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen and (lambda: gen)) as session:
        session.refit()
        tries = 0
        if gen is not None:
            address = gen[DENSE].data_ptr()
            shape = gen.pop(DENSE).shape
            session._sides[0].held.clear()  # the session keeps tensors alive; an engine that frees them is what is tested
            gc.collect()
            torch.cuda.empty_cache()
            fresh = torch.zeros(64 << 20, dtype=torch.bfloat16, device="cuda")
            tries = int(fresh.data_ptr() == address)
            gen[DENSE] = fresh[: shape.numel()].view(shape)
        train_step(1, rank, 1, train)
        session.refit()
        assert any(DENSE in note for note in session.notes), session.notes
        session.prove()
        check(1, plan, rank, gen, 1)
    return f"the same address again: {bool(tries)}" if gen is not None else ""


def expandable(rank, folder):
    """Memory that cannot be mapped is said in words, with what to set."""
    plan, train, gen = sides(rank, 1, 1)
    try:
        with refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen, executor="direct") as session:
            session.refit()
            session.prove()
            check(0, plan, rank, gen, 1)
            said = " ".join(session.notes)
    except refit.Error as error:  # NCCL before 2.30 does not serve two processes on one GPU
        said = str(error)
        assert "NCCL" in said, said
        return said
    assert "expandable_segments" in said, said
    return said


def leaks(rank, folder):
    plan, train, gen = sides(rank, 1, 1)
    control = world.control(rank, plan.ranks, folder)
    free, open_files = [], []
    for number in range(200):
        with refit.Session(plan, control, train=train, gen=gen) as session:
            session.refit()
        if number in (20, 199):
            torch.cuda.synchronize()
            free.append(torch.cuda.mem_get_info()[0])
            open_files.append(len(os.listdir("/proc/self/fd")))
    assert abs(free[1] - free[0]) < 64 << 20, free
    assert open_files[1] <= open_files[0], open_files
    return f"device memory {free[0] - free[1]} bytes, descriptors {open_files[1] - open_files[0]}"


def dead_peer(rank, folder):
    plan, train, gen = sides(rank, 1, 1)
    session = refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen)
    session.refit()
    if gen is not None:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        for _ in range(1000):
            session.refit()
    except refit.RuntimeFailure as failure:
        assert failure.rank == 1, failure
        session.close()
        assert torch.ones(4, device="cuda").sum().item() == 4  # the process and its GPU live on
        return f"after {time.monotonic() - begin:.2f} s: {failure}"
    raise AssertionError("nothing was noticed")


def errors(rank, folder):
    """Each mistake of the engine is the same exception on both."""
    plan, train, gen = sides(rank, 1, 1)
    control = world.control(rank, plan.ranks, folder)
    mistakes = {
        "on another place": lambda tensors: {**tensors, DENSE: tensors[DENSE].cpu()},
        "shape": lambda tensors: {**tensors, DENSE: tensors[DENSE][1:]},
        "F32": lambda tensors: {**tensors, DENSE: tensors[DENSE].float()},
        "missing": lambda tensors: {name: tensor for name, tensor in tensors.items() if name != DENSE},
    }
    said = []
    for change in mistakes.values():
        try:
            refit.Session(plan, control, train=train, gen=gen and change(gen))
            raise AssertionError("taken")
        except refit.UsageError as error:
            assert error.tensor == DENSE, error
            said.append(str(error).splitlines()[0])
    with refit.Session(plan, control, train=train, gen=gen) as session:
        session.refit()
        session.prove()
    return "; ".join(said)


def process(pipe, body, rank, folder, arguments):
    try:
        outcome = ("ok", body(rank, folder, *arguments))
    except BaseException:
        outcome = ("failed", traceback.format_exc())
    for one in world.CONTROLS:
        one.close()
    pipe.send(outcome)


def run(body, size, *arguments, killed=(), environment=()):
    os.environ.update(environment)
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            mine, theirs = SPAWN.Pipe()
            processes.append(SPAWN.Process(target=process, args=(theirs, body, rank, folder, arguments)))
            processes[-1].start()
            theirs.close()
            pipes.append(mine)
        outcomes = []
        for rank, pipe in enumerate(pipes):
            try:
                outcomes.append(pipe.recv() if pipe.poll(240) else ("failed", "hangs"))
            except EOFError:
                outcomes.append(("ok", "killed") if rank in killed else ("failed", "died"))
        for one in processes:
            one.kill()
            one.join()
    for name in dict(environment):
        del os.environ[name]
    good = all(outcome[0] == "ok" for outcome in outcomes)
    print(f"{'OK    ' if good else 'FAILED'}  {body.__name__} {' '.join(map(str, arguments))}")
    for rank, outcome in enumerate(outcomes):
        if outcome[1] and outcome[1] != "killed":
            print(f"        rank {rank}: {outcome[1]}")
    return good


def main():
    print(f"refit {refit.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    good = [run(refits, 2, 1, 1), run(refits, 3, 2, 1), run(refits, 3, 1, 2), run(refits, 4, 2, 2), run(same_address, 2), run(errors, 2)]
    good += [run(dead_peer, 2, killed=(1,)), run(leaks, 2)]
    good += [run(expandable, 2, environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})]
    print("PASS" if all(good) else "FAIL")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
