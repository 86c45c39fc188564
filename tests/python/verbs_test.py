"""Every verb over numpy's arrays: what arrives against numpy's own fusing and cutting of the same weights, in 2, 3 and 4
processes and by every executor."""

import json
import pathlib
import tempfile
import unittest

import numpy as np
import refit
import world


def plan_of(train_ranks, gen_ranks, **options):
    return refit.Plan(world.MODEL, train=f"fsdp FSDP{train_ranks}", gen=f"vllm TP{gen_ranks}", **options)


def refit_twice(rank, folder, train_ranks, gen_ranks, executor, memory):
    """Two refits with other weights and a proof after each. Returns names that are wrong, and what was said."""
    plan = plan_of(train_ranks, gen_ranks)
    train_rank, gen_rank = plan.rank_of("train", rank), plan.rank_of("gen", rank)
    train = gen = None
    if train_rank is not None:
        train = world.fsdp(world.checkpoint(1), train_rank, train_ranks)
    if gen_rank is not None:
        gen = world.shared(plan, gen_rank) if memory == "shared" else world.empty(plan, gen_rank)
    wrong, said = [], {"proofs": [], "seconds": []}
    with refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen, executor=executor) as session:
        said["notes"] = session.notes
        for step in (1, 2):
            weights = world.checkpoint(step)
            if train is not None:
                for name, part in world.fsdp(weights, train_rank, train_ranks).items():
                    train[name][...] = part
            before = None if train is None else {name: tensor.tobytes() for name, tensor in train.items()}
            said["seconds"].append(session.refit())
            said["proofs"].append(session.prove())
            said["digest"] = session.digest()
            version = session.version
            if (version.number, version.digest) != (step, said["digest"]):
                wrong.append(f"version {version} after refit {step}")
            session.require_version(step)
            if train is not None:
                wrong += [name for name in train if train[name].tobytes() != before[name]]
            else:
                wrong += world.differences(gen, world.vllm(weights, gen_rank, gen_ranks))
    return wrong, said


def versions(rank, folder, delta):
    """Numbers of the trainer's, an engine that forgets what it has, and one whose memory moves."""
    plan = plan_of(1, 2)
    train_rank, gen_rank = plan.rank_of("train", rank), plan.rank_of("gen", rank)
    weights = world.checkpoint(1)
    train = None if train_rank is None else world.fsdp(weights, train_rank, 1)
    gen = None if gen_rank is None else world.empty(plan, gen_rank)
    said = []
    with refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen, delta=delta) as session:
        said.append(session.version)
        session.refit(7 if train is not None else None)
        said.append(session.version.number)
        session.require_version(7)
        if gen_rank == 1:
            session.set_version(None)
        try:
            session.require_version(7)
        except refit.DataError as error:
            said.append(str(error))
        for tensor in (gen or {}).values():
            if gen_rank == 1:
                tensor.view(np.uint8)[...] = 0xFF  # a delta would not heal it
        session.refit()
        said.append(session.version.number)
        said.append([note for note in session.notes if "got everything" in note])
        session.prove()
        if gen_rank == 0:
            name = next(iter(gen))
            gen[name] = np.full_like(gen[name], 1)
        session.refit(20)
        session.prove()
        said.append(session.version.number)
        try:
            session.refit(-3)
        except refit.UsageError as error:
            said.append(str(error))
        if train is not None:
            try:
                session.set_version(1)
            except refit.UsageError as error:
                said.append(str(error))
    return said


class Verbs(unittest.TestCase):
    def check(self, train_ranks, gen_ranks, executor, memory="own"):
        outcomes = world.run(train_ranks + gen_ranks, refit_twice, train_ranks, gen_ranks, executor, memory)
        for rank, outcome in enumerate(outcomes):
            self.assertIsInstance(outcome, tuple, f"rank {rank}: {getattr(outcome, 'trace', outcome)}")
            wrong, said = outcome
            self.assertEqual(wrong, [], f"rank {rank}")
            for proof in said["proofs"]:
                self.assertEqual((proof.tensors_wrong, proof.elements_wrong, proof.kl_max, proof.wrong), (0, 0, 0.0, ()))
                self.assertEqual(proof.train_digest, proof.gen_digest)
                self.assertRegex(proof.gen_digest, "^[0-9a-f]{32}$")
            self.assertNotEqual(said["proofs"][0].gen_digest, said["proofs"][1].gen_digest)
            self.assertEqual(said["digest"], said["proofs"][1].gen_digest)
            self.assertEqual(said["proofs"], outcomes[0][1]["proofs"])
            for seconds in said["seconds"]:
                self.assertGreater(seconds.total, 0)
                self.assertLess(seconds.total, 60)
        return outcomes

    def test_layouts_and_executors(self):
        digests = set()
        for train_ranks, gen_ranks, executor, memory in [
            (1, 1, "p2p", "own"),
            (1, 2, "golden", "own"),
            (2, 2, "p2p", "own"),
            (2, 2, "direct", "shared"),
            (2, 1, "auto", "shared"),
        ]:
            with self.subTest(train=train_ranks, gen=gen_ranks, executor=executor):
                outcomes = self.check(train_ranks, gen_ranks, executor, memory)
                digests.add(outcomes[0][1]["digest"])
        self.assertEqual(len(digests), 1, "equal weights have one digest, in whatever layout")

    def test_auto_says_what_it_chose(self):
        outcomes = self.check(1, 1, "auto", "own")
        notes = " ".join(outcomes[0][1]["notes"])
        self.assertIn("p2p", notes)
        self.assertIn("cannot be mapped", notes)
        outcomes = self.check(1, 1, "auto", "shared")
        self.assertNotIn("cannot be mapped", " ".join(outcomes[0][1]["notes"]))


def colocated(rank, folder):
    plan = plan_of(2, 2, colocated=True)
    weights = world.checkpoint(1)
    gen = world.empty(plan, rank)
    with refit.Session(plan, world.control(rank, plan.ranks, folder), train=world.fsdp(weights, rank, 2), gen=gen) as session:
        session.refit()
        session.prove()
    return plan.ranks, world.differences(gen, world.vllm(weights, rank, 2))


def several_engines(rank, folder):
    plan = refit.Plan(world.MODEL, train="fsdp FSDP1", gen=["vllm TP2", "vllm TP1"])
    weights = world.checkpoint(1)
    gen_rank = plan.rank_of("gen", rank)
    gen = None if gen_rank is None else world.empty(plan, gen_rank)
    train = world.fsdp(weights, 0, 1) if rank == 0 else None
    with refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen) as session:
        session.refit()
        session.prove()
    expected = [None, world.vllm(weights, 0, 2), world.vllm(weights, 1, 2), world.vllm(weights, 0, 1)][rank]
    return world.differences(gen, expected) if gen else []


def proof_fails(rank, folder):
    """One element of gen rank 1 is changed behind the session's back."""
    plan = plan_of(1, 2)
    train = world.fsdp(world.checkpoint(1), 0, 1) if rank == 0 else None
    gen = None if rank == 0 else world.empty(plan, rank - 1)
    with refit.Session(plan, world.control(rank, plan.ranks, folder), train=train, gen=gen) as session:
        session.refit()
        session.prove()
        if rank == 2:
            gen["model.layers.2.self_attn.o_proj.weight"][5, 7] += 1
        try:
            session.prove()
            failed = None
        except refit.DataError as error:
            failed = error
        session.refit()
        healed = session.prove()
    return failed, failed and failed.proof, healed


class MoreVerbs(unittest.TestCase):
    def test_colocated(self):
        self.assertEqual(world.run(2, colocated), [(2, [])] * 2)

    def test_several_engines(self):
        self.assertEqual(world.run(4, several_engines), [[]] * 4)

    def test_a_failed_proof(self):
        for rank, outcome in enumerate(world.run(3, proof_fails)):
            self.assertIsInstance(outcome, tuple, f"rank {rank}: {getattr(outcome, 'trace', outcome)}")
            error, proof, healed = outcome
            self.assertIsInstance(error, refit.DataError)
            self.assertEqual((error.tensor, error.rank), ("model.layers.2.self_attn.o_proj.weight", 2), str(error))
            self.assertEqual((proof.tensors_wrong, proof.elements_wrong), (1, 1))
            first = 5 * world.HEADS * world.HEAD + world.HEADS * world.HEAD // 2 + 7
            self.assertEqual(proof.wrong, (refit.Wrong("model.layers.2.self_attn.o_proj.weight", 1, 1, first),))
            self.assertNotEqual(proof.train_digest, proof.gen_digest)
            self.assertEqual(healed.tensors_wrong, 0)


class Plans(unittest.TestCase):
    def test_storages_are_what_the_engine_holds(self):
        plan = plan_of(2, 2)
        for rank in range(2):
            for side, expected in (("gen", world.vllm), ("train", world.fsdp)):
                held = {name: (tensor.shape, "BF16") for name, tensor in expected(world.checkpoint(1), rank, 2).items()}
                self.assertEqual({name: (shape, dtype) for name, shape, dtype in plan.storages(side, rank)}, held)

    def test_sizes(self):
        plan = plan_of(2, 2)
        payload = sum(2 * np.prod(shape) for _, shape in world.shapes())
        self.assertEqual((plan.ranks, plan.train_ranks, plan.gen_ranks), (4, 2, 2))
        self.assertEqual(plan.sizes["tensors"], len(list(world.shapes())))
        self.assertEqual(plan.sizes["payload_bytes"], payload)
        self.assertEqual(plan.sizes["misc_bytes"], 0)
        self.assertGreaterEqual(plan.sizes["wire_bytes"], payload)
        self.assertEqual(plan.bound(1e9, 1e9), max(plan.sizes["egress_bytes_max"], plan.sizes["ingress_bytes_max"]) / 1e9)

    def test_ranks(self):
        apart, together = plan_of(2, 1), plan_of(2, 2, colocated=True)
        self.assertEqual([apart.rank_of("train", rank) for rank in range(4)], [0, 1, None, None])
        self.assertEqual([apart.rank_of("gen", rank) for rank in range(4)], [None, None, 0, None])
        self.assertEqual([together.rank_of("gen", rank) for rank in range(3)], [0, 1, None])

    def test_explain(self):
        text = plan_of(2, 2).explain("model.layers.0.self_attn.q_proj.weight")
        self.assertIn("model.layers.0.self_attn.qkv_proj.weight", text)
        self.assertIn("2 copies", text)

    def test_a_quantised_config_keeps_what_it_says(self):
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
        quantisation = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
                        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            config = {**world.CONFIG, "quantization_config": quantisation}
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
            plan = refit.Plan(folder, train="megatron TP1 precision=int4", gen="vllm TP1 precision=int4")
        shapes = {name: shape for name, shape, _ in plan.storages("gen", 0)}
        self.assertEqual(shapes["model.layers.0.self_attn.o_proj.weight_scale"], (world.HIDDEN, world.HEADS * world.HEAD // 32))

    def test_mistakes(self):
        for keys, what in [
            ({"train": "fsdp FSDP2", "gen": "vlm TP2"}, "vllm"),
            ({"train": "fsdp FSDP2", "gen": "vllm TP3"}, "3"),
            ({"train": "fsdp FSDP2", "gen": []}, "no engine"),
            ({"train": "fsdp FSDP2", "gen": "vllm TP2 precison=fp8"}, "precision"),
            ({"train": "fsdp FSDP2", "gen": "vllm TP2", "policy": "everything"}, "policy"),
        ]:
            with self.subTest(keys=keys), self.assertRaises(refit.UsageError) as caught:
                refit.Plan(world.MODEL, **keys)
            self.assertIn(what, str(caught.exception))
        with self.assertRaises(refit.Error):
            refit.Plan("/nowhere", train="fsdp FSDP2", gen="vllm TP2")
        with self.assertRaises(refit.UsageError) as caught:
            plan_of(1, 1).explain("model.layers.0.self_attn.q_pro.weight")
        self.assertIn("model.layers.0.self_attn.q_proj.weight", str(caught.exception))
        with self.assertRaises(refit.UsageError):
            plan_of(1, 1).storages("gen", 1)

    def test_versions(self):
        for delta in ("off", "auto"):
            outcomes = world.run(3, versions, delta)
            for rank, said in enumerate(outcomes):
                self.assertIsInstance(said, list, f"rank {rank}: {getattr(said, 'trace', said)}")
                self.assertEqual(said[:2], [None, 7])
                self.assertIn("gen does not hold version 7 everywhere: gen rank 1 holds no version", said[2])
                self.assertEqual(said[3], 8)
                self.assertEqual(said[4], ["refit 2: gen rank 1 holds no version, and got everything"])
                self.assertEqual(said[5], 20)
                self.assertIn("cannot have version -3", said[6])
            self.assertIn("no gen rank", outcomes[0][7])


if __name__ == "__main__":
    unittest.main()
