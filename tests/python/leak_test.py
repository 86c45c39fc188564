"""1,000 sessions made and closed in one process: its descriptors, threads and memory stay what they were after the first
ones; and so they do after sessions that failed."""

import os
import pathlib
import unittest

import refit
import world

SESSIONS = 1000
WARM = 100  # allocators and caches have what they keep by then


def used():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), pages * os.sysconf("SC_PAGE_SIZE")


def one_layer():
    return refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP1", layers=1)


def many(rank, folder):
    """Half of the sessions have a world of their own, half share one; each tenth refits."""
    plan = one_layer()
    train = {name: part for name, part in world.fsdp(world.checkpoint(1), 0, 1).items()} if rank == 0 else None
    gen = world.shared(plan, 0) if rank == 1 else None
    common = world.control(rank, 2, folder, "common")
    after_warm = None
    for i in range(SESSIONS):
        control = common if i % 2 else world.control(rank, 2, folder, f"world{i}")
        with refit.Session(plan, control, train=train, gen=gen) as session:
            if i % 10 == 0:
                session.refit()
                session.prove()
        if control is not common:
            control.close()
        if i == WARM:
            after_warm = used()
    return after_warm, used()


def failing(rank, folder):
    plan = one_layer()
    control = world.control(rank, 2, folder)
    sides = {"train": world.fsdp(world.checkpoint(1), 0, 1)} if rank == 0 else {"gen": {}}
    after_warm = None
    for i in range(300):
        try:
            refit.Session(plan, control, **sides)
            return "no error"
        except refit.UsageError:
            pass
        if i == WARM:
            after_warm = used()
    return after_warm, used()


class Leaks(unittest.TestCase):
    def check(self, body):
        for rank, outcome in enumerate(world.run(2, body)):
            self.assertIsInstance(outcome, tuple, f"rank {rank}: {getattr(outcome, 'trace', outcome)}")
            (descriptors, threads, memory), now = outcome
            self.assertEqual(now[:2], (descriptors, threads))
            self.assertLess(now[2], memory + 8 * 2**20)

    def test_sessions(self):
        self.check(many)

    def test_sessions_that_fail(self):
        self.check(failing)


if __name__ == "__main__":
    unittest.main()
