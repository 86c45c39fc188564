"""Whatever goes wrong is an exception with tensor and rank on every process, which lives on and makes another session."""

import gc
import os
import pickle
import signal
import time
import unittest
import warnings

import ml_dtypes
import numpy as np
import refit
import world

Q = "model.layers.1.self_attn.qkv_proj.weight"
OTHER = "model.layers.0.self_attn.qkv_proj.weight"


def plan_of():
    return refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP1")


def sides(plan, rank):
    """Arguments of a session of a world of one train and one gen rank."""
    return {"train": world.fsdp(world.checkpoint(1), 0, 1)} if rank == 0 else {"gen": world.empty(plan, 0)}


def caught(function, *arguments, **keys):
    try:
        function(*arguments, **keys)
        return None
    except Exception as error:
        return error


def works(plan, control, **keys):
    """Whether a session does all it should."""
    with refit.Session(plan, control, **keys) as session:
        session.refit()
        session.prove()
    return world.differences(keys["gen"], world.vllm(world.checkpoint(1), 0, 1)) == [] if "gen" in keys else True


def spoilt(rank, folder, spoil):
    """A session of which rank 1's tensors are no good, then one that is."""
    plan = plan_of()
    control = world.control(rank, 2, folder)
    keys = sides(plan, rank)
    good = dict(keys.get("gen", {}))
    if rank == 1:
        spoil(keys["gen"])
    error = caught(refit.Session, plan, control, **keys)
    if rank == 1:
        keys["gen"] = good
    return error, works(plan, control, **keys)


def wrong_shape(gen):
    gen[Q] = gen[Q][:-1].copy()


def wrong_dtype(gen):
    gen[Q] = gen[Q].astype(np.float32)


def missing(gen):
    del gen[Q]


def not_dense(gen):
    gen[Q] = np.zeros((gen[Q].shape[0], 2 * gen[Q].shape[1]), gen[Q].dtype)[:, ::2]


def read_only(gen):
    gen[Q].flags.writeable = False
    gen[Q] = gen[Q].view()


def no_tensor(gen):
    gen[Q] = [1.0, 2.0]


def other_byte_order(gen):
    gen[Q] = np.zeros(gen[Q].shape, ">f4")


def shares_memory(gen):
    gen[Q] = gen[OTHER]


class Tensors(unittest.TestCase):
    def check(self, spoil, words):
        for rank, outcome in enumerate(world.run(2, spoilt, spoil)):
            self.assertIsInstance(outcome, tuple, f"rank {rank}: {getattr(outcome, 'trace', outcome)}")
            error, is_good = outcome
            self.assertIsInstance(error, refit.UsageError, f"rank {rank}")
            self.assertIn(error.tensor, (Q, OTHER) if spoil is shares_memory else (Q,), str(error))
            self.assertIn(Q, str(error))
            self.assertEqual(error.rank, 1, str(error))
            if rank == 1 or words:
                self.assertIn(words or "", str(error))
            self.assertTrue(is_good)

    def test_seen_by_the_library(self):
        for spoil, words in [
            (wrong_shape, "has shape"),
            (wrong_dtype, "is F32 and has to be BF16"),
            (missing, "is missing"),
            (not_dense, "not dense"),
            (shares_memory, "shares memory"),
        ]:
            with self.subTest(spoil.__name__):
                self.check(spoil, words)

    def test_seen_before(self):
        for spoil in (no_tensor, other_byte_order):
            with self.subTest(spoil.__name__):
                self.check(spoil, None)


def raises(rank, folder):
    """A callable that raises on one process."""
    plan = plan_of()
    control = world.control(rank, 2, folder)
    keys = sides(plan, rank)
    if rank == 0:
        error = caught(refit.Session, plan, control, train=lambda: 1 / 0)
    else:
        error = caught(refit.Session, plan, control, **keys)
    return error, works(plan, control, **keys)


def moved(rank, folder):
    """An engine's tensors get other memory between refits: a good one, one of another shape, none; then a good one."""
    plan = plan_of()
    keys = sides(plan, rank)
    control = world.control(rank, 2, folder)
    expected = world.vllm(world.checkpoint(1), 0, 1)
    gen = keys.get("gen")
    said = []
    with refit.Session(plan, control, **keys) as session:
        session.refit()
        if gen is not None:
            old, old[...] = gen[Q], 0
            gen[Q] = np.ones_like(old)
        session.refit()
        said.append(session.notes)
        session.prove()
        if gen is not None:
            assert not old.any(), "written to memory that was given up"
            assert world.differences(gen, expected) == []
            gen[Q] = np.zeros((3, 3), old.dtype)
        said.append(caught(session.refit))
        if gen is not None:
            gen[Q] = "no tensor"
        said.append(caught(session.refit))
        if gen is not None:
            gen[Q] = old
        session.refit()
        session.prove()
        if gen is not None:
            assert world.differences(gen, expected) == []
    return said


def two_sessions(rank, folder):
    plan = plan_of()
    control = world.control(rank, 2, folder)
    keys = sides(plan, rank)
    other = sides(plan, rank)
    with refit.Session(plan, control, **keys) as first:
        error = caught(refit.Session, plan, control, **keys)
        with refit.Session(plan, control, **other) as second:
            second.refit()
            first.refit()
            second.prove()
            first.prove()
    expected = world.vllm(world.checkpoint(1), 0, 1)
    wrong = [world.differences(tensors["gen"], expected) for tensors in (keys, other)] if rank == 1 else []
    return error, wrong, works(plan, control, **keys)


class Case(unittest.TestCase):
    def outcomes(self, size, body, *arguments):
        outcomes = world.run(size, body, *arguments)
        for rank, outcome in enumerate(outcomes):
            self.assertNotIsInstance(outcome, BaseException, f"rank {rank}: {getattr(outcome, 'trace', outcome)}")
        return outcomes


class Sessions(Case):
    def test_a_callable_that_raises(self):
        (mine, good), (others, others_good) = self.outcomes(2, raises)
        self.assertIsInstance(mine, ZeroDivisionError)
        self.assertIsInstance(others, refit.UsageError)
        self.assertEqual(others.rank, 0)
        self.assertTrue(good and others_good)

    def test_moved_memory(self):
        for rank, (notes, shape, none) in enumerate(self.outcomes(2, moved)):
            self.assertTrue(any(Q in note and "moved" in note for note in notes), notes)
            for error in (shape, none):
                self.assertIsInstance(error, refit.UsageError, f"rank {rank}")
                self.assertEqual((error.tensor, error.rank), (Q, 1), str(error))

    def test_two_sessions_at_once(self):
        for error, wrong, good in self.outcomes(2, two_sessions):
            self.assertIsInstance(error, refit.UsageError)
            self.assertIn("another open session", str(error))
            self.assertIsNotNone(error.tensor)
            self.assertEqual(wrong, [[], []] if wrong else [])
            self.assertTrue(good)


def dies(rank, folder):
    """Rank 2 of three is killed between two refits; the others go on without it."""
    plan = refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP2")
    control = world.control(rank, 3, folder)
    gen = None if rank == 0 else world.empty(plan, rank - 1)
    train = world.fsdp(world.checkpoint(1), 0, 1) if rank == 0 else None
    session = refit.Session(plan, control, train=train, gen=gen, timeout=60)
    session.refit()
    world.meet(rank, 3, folder)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    errors = [caught(session.refit), caught(session.refit), caught(session.prove)]
    seconds = time.monotonic() - begin
    session.close()
    rest = plan_of()
    return errors, seconds, works(rest, world.control(rank, 2, folder, "rest"), **sides(rest, rank))


def is_late(rank, folder):
    """Rank 1 is late; afterwards both make another session with the same control."""
    plan = plan_of()
    control = world.control(rank, 2, folder)
    keys = sides(plan, rank)
    session = refit.Session(plan, control, **keys, timeout=3)
    if rank == 1:
        time.sleep(5)
    error = caught(session.refit)
    session.close()
    return error, works(plan, control, **keys)


def is_interrupted(rank, folder):
    """Rank 0 gets a Ctrl-C while it waits for rank 1; afterwards both make another session with the same control."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = plan_of()
    control = world.control(rank, 2, folder)
    keys = sides(plan, rank)
    store = world.FileStore(folder)
    session = refit.Session(plan, control, **keys)
    begin = time.monotonic()
    if rank == 0:
        store.set("pid", str(os.getpid()).encode())
        try:
            error = caught(session.refit)
        except KeyboardInterrupt as interrupt:
            error = interrupt
    else:
        while (pid := store.get("pid")) is None:
            time.sleep(0.01)
        time.sleep(2)  # until it waits
        os.kill(int(pid), signal.SIGINT)
        time.sleep(1)
        error = caught(session.refit)
    seconds = time.monotonic() - begin
    session.close()
    return error, seconds, works(plan, control, **keys)


class Peers(Case):
    def test_interrupted(self):
        (mine, seconds, good), (others, _, others_good) = self.outcomes(2, is_interrupted)
        self.assertIsInstance(mine, KeyboardInterrupt)
        self.assertLess(seconds, 30)
        self.assertIsInstance(others, refit.RuntimeFailure)
        self.assertEqual(others.rank, 0, str(others))
        self.assertIn("interrupted", str(others))
        self.assertTrue(good and others_good)

    def test_one_that_dies(self):
        outcomes = world.run(3, dies)
        self.assertEqual(outcomes[2], -signal.SIGKILL)
        for outcome in outcomes[:2]:
            self.assertIsInstance(outcome, tuple, getattr(outcome, "trace", outcome))
            errors, seconds, good = outcome
            for error in errors:
                self.assertIsInstance(error, refit.RuntimeFailure)
                self.assertEqual(error.rank, 2, str(error))
            self.assertLess(seconds, 30)
            self.assertTrue(good)

    def test_one_that_is_late(self):
        for rank, (error, good) in enumerate(self.outcomes(2, is_late)):
            self.assertIsInstance(error, refit.RuntimeFailure)
            if rank == 0:
                self.assertEqual(error.rank, 1, str(error))
            self.assertTrue(good)


def around(rank, folder):
    """What is refused without the others."""
    plan = plan_of()
    control = world.control(rank, 2, folder)
    keys = sides(plan, rank)
    session = refit.Session(plan, control, **keys)
    errors = [caught(pickle.dumps, session), caught(pickle.dumps, control)]
    child = os.fork()
    if child == 0:
        refused = [caught(session.refit), caught(refit.Session, plan, control, **keys)]
        session.close()
        os._exit(0 if all(isinstance(error, refit.UsageError) and "fork" in str(error) for error in refused) else 1)
    errors.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    session.refit()
    session.prove()
    session.close()
    session.close()
    errors += [session.closed, caught(session.refit), caught(session.prove), caught(lambda: session.notes)]
    control.close()
    return errors, works(plan, control, **keys)


def dropped(rank, folder):
    """A session that nobody closes: it says so, keeps its memory for itself, and waits for nobody."""
    plan = plan_of()
    keys = sides(plan, rank)
    session = refit.Session(plan, world.control(rank, 2, folder, "dropped"), **keys)
    session.refit()
    begin = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del session
        gc.collect()
    seconds = time.monotonic() - begin
    control = world.control(rank, 2, folder)
    again = caught(refit.Session, plan, control, **keys)
    return [str(warning.message) for warning in said], seconds, again, works(plan, control, **sides(plan, rank))


def fails_to_gather(rank, folder):
    plan = plan_of()
    keys = sides(plan, rank)

    def all_gather(mine):
        raise KeyError("the store is gone")

    errors = [
        caught(refit.Session, plan, refit.Control(rank, 2, all_gather), **keys),
        caught(refit.Session, plan, refit.Control(rank, 2, lambda mine: [mine]), **keys),
        caught(refit.Session, plan, refit.Control(rank, 2, lambda mine: [mine, mine[1:]]), **keys),
        caught(refit.Control, 2, 2, all_gather),
    ]
    return errors, works(plan, world.control(rank, 2, folder), **keys)


def other_plans(rank, folder):
    control = world.control(rank, 2, folder)
    other = refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP1", policy="ffn" if rank == 1 else "all")
    error = caught(refit.Session, other, control, **sides(other, rank))
    larger = refit.Plan(world.MODEL, train="fsdp FSDP1", gen="vllm TP2")
    size = caught(refit.Session, larger, control, **sides(plan_of(), rank))
    return error, size, works(plan_of(), control, **sides(plan_of(), rank))


def counted(rank, folder):
    """A process that is started anew finds the others through a store that counts."""
    store = world.CountingStore(folder)
    plan = plan_of()
    good = []
    for _ in range(2):
        control = refit.from_store(store, rank, 2, timeout=60)
        good.append(works(plan, control, **sides(plan, rank)))
        control.close()
    late = refit.from_store(store, rank, 2, "other", timeout=0.2)
    return good, caught(refit.Session, plan, late, **sides(plan, rank)) if rank == 0 else TimeoutError()


class Around(Case):
    def test_what_is_refused(self):
        for errors, good in self.outcomes(2, around):
            pickles, child, closed, after = errors[:2], errors[2], errors[3], errors[4:]
            for error in pickles:
                self.assertIsInstance(error, TypeError)
            self.assertEqual(child, 0)
            self.assertTrue(closed)
            for error in after:
                self.assertIsInstance(error, refit.UsageError)
                self.assertIn("closed", str(error))
            self.assertTrue(good)

    def test_one_that_nobody_closes(self):
        for said, seconds, again, good in self.outcomes(2, dropped):
            self.assertEqual(len(said), 1, said)
            self.assertIn("was not closed", said[0])
            self.assertLess(seconds, 10)
            self.assertIn("another open session", str(again))
            self.assertTrue(good)

    def test_an_all_gather_that_fails(self):
        for (raised, short, uneven, rank), good in self.outcomes(2, fails_to_gather):
            self.assertIsInstance(raised, KeyError)
            for error in (short, uneven, rank):
                self.assertIsInstance(error, refit.UsageError)
            self.assertTrue(good)

    def test_plans_that_differ(self):
        for error, size, good in self.outcomes(2, other_plans):
            self.assertIsInstance(error, refit.UsageError)
            self.assertEqual(error.rank, 1, str(error))
            self.assertIsInstance(size, refit.UsageError)
            self.assertTrue(good)

    def test_a_store_that_counts(self):
        for good, error in self.outcomes(2, counted):
            self.assertEqual(good, [True, True])
            self.assertIsInstance(error, TimeoutError)


class Exceptions(unittest.TestCase):
    def test_they_can_be_pickled(self):
        for kind in (refit.UsageError, refit.DataError, refit.RuntimeFailure, refit.UnavailableError):
            error = pickle.loads(pickle.dumps(kind("text", tensor="a", rank=3)))
            self.assertEqual((type(error), str(error), error.tensor, error.rank), (kind, "text", "a", 3))


if __name__ == "__main__":
    unittest.main()
