"""The program of docs/embed.md, "An engine dies", as it stands there: two trainer processes and two engines, one of which is
killed and replaced.

replaced_test.py ROOT
"""

import os
import pathlib
import re
import signal
import sys
import time
import unittest

import refit
import world

ROOT = pathlib.Path(sys.argv.pop(1))
TRAIN, GEN = "fsdp FSDP2", {"first": "vllm TP1", "second": "vllm TP2"}
# Processes: two trainers, one of the first engine, two of the second one, two of that which replaces it.
TRAINERS, FIRST, SECOND, AGAIN = (0, 1), (2,), (3, 4), (5, 6)
STEPS, DEATH = 5, 2  # the second engine dies after this step


def program():
    text = (ROOT / "docs" / "embed.md").read_text()
    (source,) = re.findall(r"```python\n(# engines\.py\n.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(source, "docs/embed.md", "exec"), names)
    return names["Engine"]


def agree_by(store, rank):
    """Whether a flag is set on both trainers."""
    rounds = 0

    def agree(flag):
        nonlocal rounds
        rounds += 1
        store.set(f"agree-{rounds}-{rank}", b"1" if flag else b"0")
        flags = [wait_for(store, f"agree-{rounds}-{peer}") for peer in TRAINERS]
        return all(one == b"1" for one in flags)

    return agree


def wait_for(store, key):
    while (value := store.get(key)) is None:
        time.sleep(0.002)
    return value


def trainer(rank, store):
    agree = agree_by(store, rank)
    engines = [program()(name, gen, world.MODEL, TRAIN, agree) for name, gen in GEN.items()]
    tensors = world.fsdp(world.checkpoint(0), rank, len(TRAINERS))
    for engine in engines:
        engine.join(store, rank, tensors, 20)
    outcome = []
    for step in range(1, STEPS + 1):
        for name, tensor in world.fsdp(world.checkpoint(step), rank, len(TRAINERS)).items():
            tensors[name][...] = tensor
        outcome.append([engine.refit() for engine in engines])
        store.set(f"step-{step}-{rank}", b"")
        for engine in engines:
            if engine.session is None:
                engine.join(store, rank, tensors, 20)
    for engine in engines:
        engine.session.prove()
        engine.session.close()
        engine.control.close()
    return outcome


def engine(store, name, life, rank, refits, dies=False):
    """One process of an engine, which gets so many refits; its tensors at the end, or the error that it got instead."""
    plan = refit.Plan(world.MODEL, train=TRAIN, gen=GEN[name])
    gen = world.empty(plan, rank, 1)
    with refit.from_store(store, plan.train_ranks + rank, plan.ranks, f"{name}-{life}") as control:
        with refit.Session(plan, control, gen=gen, timeout=120) as session:
            for _ in range(refits):
                session.refit()
            if life == 0 and name == "second":
                for peer in TRAINERS:  # the trainers' refit is over, too
                    wait_for(store, f"step-{refits}-{peer}")
                if dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    session.refit()
                except refit.RuntimeFailure as error:
                    return error
            session.prove()
    return world.differences(gen, world.vllm(world.checkpoint(STEPS), rank, plan.gen_ranks))


def process(rank, folder):
    store = world.FileStore(folder)
    if rank in TRAINERS:
        return trainer(rank, store)
    if rank in FIRST:
        return engine(store, "first", 0, 0, STEPS)
    if rank in SECOND:
        return engine(store, "second", 0, rank - SECOND[0], DEATH, dies=rank == SECOND[0])
    return engine(store, "second", 1, rank - AGAIN[0], STEPS - DEATH - 1)


class AnEngineDies(unittest.TestCase):
    def test_it_is_replaced_and_the_other_one_does_not_notice(self):
        outcomes = world.run(len(TRAINERS + FIRST + SECOND + AGAIN), process)
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception) and rank not in SECOND:
                self.fail(f"process {rank}: {getattr(outcome, 'trace', outcome)}")
        taken = [[True, step != DEATH + 1] for step in range(1, STEPS + 1)]
        for rank in TRAINERS:
            self.assertEqual(outcomes[rank], taken)
        self.assertEqual(outcomes[SECOND[0]], -signal.SIGKILL)
        survivor = outcomes[SECOND[1]]
        self.assertIsInstance(survivor, refit.RuntimeFailure)
        self.assertEqual(survivor.rank, len(TRAINERS), str(survivor))
        for rank in FIRST + AGAIN:  # everything, though the second one got two refits only
            self.assertEqual(outcomes[rank], [])


if __name__ == "__main__":
    unittest.main()
