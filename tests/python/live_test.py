"""The sides of live models, against what real trainers held: refit.fsdp and refit.megatron read models of which every rank's names, shapes,
meshes and placements are recorded, and the plan that their spec gives must want exactly these.

    live_test.py DATA      the folder of fsdp.tar.xz, engines.tar.xz and pipelines.tar.xz
"""

import json
import os
import pathlib
import re
import struct
import sys
import tarfile
import tempfile
import types
import unittest

import refit
import refit.fsdp
import refit.megatron
from refit import _live

DATA = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1] / "data"
GEN = "vllm TP1"
TORCH_NAMES = {"F32": "torch.float32", "BF16": "torch.bfloat16", "F16": "torch.float16"}


class Tensor:
    """What refit looks at in a tensor. It has no memory."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), dtype


class Placement:
    def __init__(self, text):
        self.text = text
        if "dim=" in text:
            self.dim = int(text.partition("dim=")[2].split(",")[0].rstrip(")"))

    def __str__(self):
        return self.text


class Mesh:
    def __init__(self, names, shape, coordinate):
        self.mesh_dim_names, self.shape, self._coordinate = tuple(names), tuple(shape), coordinate

    def get_coordinate(self):
        return self._coordinate


class DTensor(Tensor):
    def __init__(self, record, at):
        super().__init__(record["shape"], "torch." + record["dtype"])
        self.placements = [Placement(text) for text in record["placements"]]
        self.device_mesh = Mesh(record["mesh_dims"], record["mesh_shape"], at["coordinate"])
        self._local = Tensor(at["local"], self.dtype)

    def to_local(self):
        return self._local


class Module:
    """A torch module without submodules."""

    _non_persistent_buffers_set = frozenset()

    def __init__(self, parameters, buffers=None):
        self._parameters, self._buffers = parameters, buffers or {}

    def modules(self):
        return [self]

    def named_modules(self):
        return [("", self)]

    def named_parameters(self):
        return iter(self._parameters.items())

    def named_buffers(self, recurse=True):
        return self._buffers.items()


class Archive:
    """An archive's index, and the shapes that its files of tensors have."""

    def __init__(self, name):
        self.name = name
        self.folder = tempfile.TemporaryDirectory()
        self.documents, self.shapes = {}, {}
        with tarfile.open(DATA / f"{name}.tar.xz") as tar:
            for member in tar:
                path = member.name.removeprefix("./").removeprefix(f"{name}/")
                if path.endswith("config.json"):
                    target = os.path.join(self.folder.name, path)
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    with open(target, "wb") as file:
                        file.write(tar.extractfile(member).read())
                elif path.endswith(".json"):
                    self.documents[path] = json.load(tar.extractfile(member))
                elif path.endswith(".safetensors"):
                    file = tar.extractfile(member)
                    (length,) = struct.unpack("<Q", file.read(8))
                    header = json.loads(file.read(length))
                    header.pop("__metadata__", None)
                    self.shapes[path] = header
        self.index = self.documents["index.json"]

    def config(self, checkpoint):
        """The path of a config.json; None where the archive has none."""
        path = os.path.join(self.folder.name, "ckpt", checkpoint, "config.json")
        return path if os.path.exists(path) else None


class Fsdp(unittest.TestCase):
    """Of the archive's layouts all but those that torch refused, and one that no framework has."""

    LAYOUTS = 126
    LEFT_OUT = {"fsdp/llama_tied/tponly_tp2_sp"}
    RECIPES = {"nemo_rl_v1": "nemo_rl", "tp_only": "nemo_rl", "torchtitan_etp": "torchtitan"}

    @classmethod
    def setUpClass(cls):
        cls.archive = Archive("fsdp")

    def options(self, entry):
        """What DTensors do not show."""
        given = entry["options"]
        found = {"virtual_stages": given.get("virtual"), "pipeline_style": given.get("style")}
        if given.get("placement_fn") and entry["sizes"].get("pp", 1) > 1:
            found["shard_dim"] = {"first_divisible": ["*=first_divisible"], "dim1": ["*=1"], "last": ["*=-1"]}[given["placement_fn"]]
        return {key: value for key, value in found.items() if value is not None}

    def model(self, record, rank, folder):
        """A rank's stages as one module. Parameters are those that the rank's file has."""
        header = self.archive.shapes[f"{folder}/rank{rank}.safetensors"]
        parameters, buffers = {}, {}
        for name, entry in header.items():
            known = record["params"].get(name)
            if known and known["mesh_dims"]:
                parameters[name] = DTensor(known, known["per_rank"][rank])
            elif known:
                parameters[name] = Tensor(entry["shape"], TORCH_NAMES[entry["dtype"]])
            else:
                buffers[name] = Tensor(entry["shape"], TORCH_NAMES[entry["dtype"]])
        return Module(parameters, buffers)

    def test_layouts(self):
        compared = 0
        for entry in self.archive.index:
            if entry["refused"] or entry["folder"] in self.LEFT_OUT:
                continue
            with self.subTest(entry["folder"]):
                folder = entry["folder"].removeprefix("fsdp/")
                record = self.archive.documents[f"{folder}/layout.json"]
                models = [self.model(record, rank, folder) for rank in range(entry["ranks"])]
                recipe = self.RECIPES.get(entry["recipe"], entry["recipe"])
                where = {"ranks": entry["ranks"], **self.options(entry)}
                specs = {refit.fsdp.side(model, recipe, rank=rank, **where)[0] for rank, model in enumerate(models)}
                self.assertEqual(len(specs), 1, specs)
                plan = refit.Plan(self.archive.config(entry["checkpoint"]), train=specs.pop(), gen=GEN)
                for rank, model in enumerate(models):
                    refit.fsdp.check(plan, model, rank=rank)
                compared += 1
        self.assertEqual(compared, self.LAYOUTS)

    def one(self, folder, rank=0):
        """A rank's model of a layout."""
        return self.model(self.archive.documents[f"{folder}/layout.json"], rank, folder)

    def refused(self, model, *words, **where):
        with self.assertRaises(refit.UsageError) as caught:
            refit.fsdp.side(model, **where)
        for word in words:
            self.assertIn(word, str(caught.exception))
        return caught.exception

    def test_names_of_wrappers(self):
        model = self.one("qwen3/verl_fsdp2")
        expected = refit.fsdp.side(model, rank=0, ranks=2)
        compiled = Module(
            {name.replace("layers.0.", "layers.0._checkpoint_wrapped_module.", 1): tensor for name, tensor in model.named_parameters()}
        )
        self.assertNotEqual(list(dict(compiled.named_parameters())), list(dict(model.named_parameters())))
        self.assertEqual(refit.fsdp.side(compiled, rank=0, ranks=2), expected)

    def test_other_orders_of_ranks(self):
        error = self.refused(self.one("qwen3/verl_ddp2_fsdp2", 1), "rank 2 is", "along HSDP", rank=2, ranks=4)
        self.assertEqual(error.rank, 2)
        self.assertTrue(error.tensor)
        self.refused(self.one("qwen3/verl_fsdp4"), "3 ranks", rank=0, ranks=3)

    def test_meshes_that_are_not_known(self):
        model = self.one("qwen3/v1_dp2_tp2_dim1")
        for tensor in model._parameters.values():
            tensor.device_mesh.mesh_dim_names = tuple("x" + name for name in tensor.device_mesh.mesh_dim_names)
        self.refused(model, '"xdp_cp"', rank=0, ranks=4)
        for tensor in model._parameters.values():
            tensor.device_mesh.mesh_dim_names = None
            tensor.device_mesh.shape = (1, 2, 2)
        self.refused(model, "mesh_dim_names", rank=0, ranks=4)
        self.refused(Module({"w": Tensor([2, 2], "torch.bfloat16")}), "fully_shard", rank=0, ranks=1)

    def test_what_does_not_fit_a_plan(self):
        model = self.one("qwen3/verl_fsdp4")
        spec, _ = refit.fsdp.side(model, rank=0, ranks=4)
        plan = refit.Plan(self.archive.config("qwen3"), train=spec, gen=GEN)
        shape, dtype, missing = "lm_head.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight"
        model._parameters[shape]._local.shape = (1, 1)
        model._parameters[dtype]._local.dtype = "torch.bfloat16"
        model._parameters["of_another_model"] = model._parameters.pop(missing)
        with self.assertRaises(refit.UsageError) as caught:
            refit.fsdp.check(plan, model, rank=0)
        lines = str(caught.exception).splitlines()
        self.assertIn("rank 0 has 3 tensors", lines[0])
        for words in (
            [shape, "[1, 1]", "Shard(dim=0)", "fsdp 4"],
            [dtype, "bfloat16", "F32"],
            [missing, "is missing"],
            ["of_another_model"],
        ):
            self.assertTrue(any(all(word in line for word in words) for line in lines), f"{words}: {lines}")


class Chunk(Module):
    """A GPTModel or HybridModel."""

    decoder = None

    def __init__(self, parameters, config, vocab_size, pattern):
        super().__init__(parameters)
        self.config, self.vocab_size, self.hybrid_layer_pattern = config, vocab_size, pattern


class Wrapper:
    """Megatron-Core's DDP, or Float16Module."""

    def __init__(self, module):
        self.module = module


def parallel_state(sizes, at):
    """megatron.core.parallel_state of a rank."""
    axes = {"tensor_model_parallel": "tp", "pipeline_model_parallel": "pp", "context_parallel": "cp", "data_parallel": "dp",
            "expert_model_parallel": "ep", "expert_tensor_parallel": "etp"}  # fmt: skip
    state = types.ModuleType("parallel_state")
    state.model_parallel_is_initialized = lambda: True
    for word, axis in axes.items():
        setattr(state, f"get_{word}_rank", lambda axis=axis: at[axis])
        setattr(state, f"get_{word}_world_size", lambda axis=axis: sizes[axis])
    return state


class Megatron(unittest.TestCase):
    LAYOUTS = {"engines": 74, "pipelines": 33}
    # Megatron-Core's names of what an index says of a layout.
    CONFIG = {"train.first_stage_layers": "num_layers_in_first_pipeline_stage", "train.last_stage_layers": "num_layers_in_last_pipeline_stage",
              "train.account_for_embedding": "account_for_embedding_in_pipeline_split",
              "train.account_for_loss": "account_for_loss_in_pipeline_split"}  # fmt: skip

    def setUp(self):
        self.core = types.ModuleType("megatron.core")
        sys.modules["megatron"], sys.modules["megatron.core"] = types.ModuleType("megatron"), self.core
        self.addCleanup(lambda: [sys.modules.pop(name) for name in ("megatron", "megatron.core")])
        self.rank_of_trainer = _live.rank_of_trainer
        self.addCleanup(setattr, _live, "rank_of_trainer", self.rank_of_trainer)

    def stand(self, rank, entry, **others):
        """Makes this process that rank."""
        found = entry["coordinates"]
        sizes = {axis: 1 + max(at.get(axis, 0) for at in found) for axis in ("tp", "cp", "dp", "ep", "pp", "etp")}
        self.core.parallel_state = parallel_state(sizes, {"etp": 0, **found[rank], **others})
        _live.rank_of_trainer = lambda: (rank, entry["ranks"])
        return sizes

    def model(self, archive, entry, rank, sizes):
        settings = entry["settings"]
        chunks = self.parameters(archive, entry, rank)
        config = types.SimpleNamespace(pipeline_model_parallel_size=sizes["pp"], pipeline_model_parallel_layout=None)
        for key, name in self.CONFIG.items():
            setattr(config, name, settings.get(key))
        if "train.pipeline_layout" in settings:
            config.pipeline_model_parallel_layout = self.layout(settings["train.pipeline_layout"], sizes["pp"])
        rows = self.parameters(archive, entry, 0)[0]["embedding.word_embeddings.weight"].shape[0]
        pattern = "M-E|*M" if "train.stage_layers" in settings else None
        return [Wrapper(Wrapper(Chunk(chunk, config, rows * sizes["tp"], pattern))) for chunk in chunks]

    def parameters(self, archive, entry, rank):
        """{name: tensor} of each of a rank's model chunks."""
        path = f"{entry['folder']}/rank{rank}"
        paths = (
            [path]
            if f"{path}.safetensors" in archive.shapes
            else [f"{path}.chunk{i}" for i in range(entry["settings"]["train.virtual_pipeline"])]
        )
        headers = [archive.shapes[f"{each}.safetensors"] for each in paths]
        return [{name: Tensor(tensor["shape"], TORCH_NAMES[tensor["dtype"]]) for name, tensor in header.items()} for header in headers]

    def layout(self, text, stages):
        """Megatron-Core's PipelineParallelLayerLayout: [pp][vp] lists of layer types."""
        names = {"E": "embedding", "t": "decoder", "m": "mtp", "L": "loss"}
        text = re.sub(r"(\w)\*(\d+)", lambda match: match[1] * int(match[2]), text)
        sections = [[types.SimpleNamespace(name=names[letter]) for letter in section] for section in text.split("|")]
        return types.SimpleNamespace(layout=[sections[stage::stages] for stage in range(stages)])

    def check(self, archive, entry):
        specs, models = set(), []
        for rank in range(entry["ranks"]):
            sizes = self.stand(rank, entry)
            model = self.model(archive, entry, rank, sizes)
            spec, tensors = refit.megatron.side(model)
            specs.add(spec)
            models.append(tensors)
        self.assertEqual(len(specs), 1, specs)
        plan = refit.Plan(self.config(archive, entry["checkpoint"]), train=specs.pop(), gen=GEN)
        for rank, tensors in enumerate(models):
            _live.require(plan, rank, tensors)

    def config(self, archive, checkpoint):
        found = archive.config(checkpoint) or self.archives["engines"].config(checkpoint)
        if found:
            return found
        self.assertEqual(checkpoint, "llama_tied_mg")  # llama8_tied_mg with 6 layers, which is not in the archives
        with open(archive.config("llama8_tied_mg"), encoding="utf-8") as file:
            config = json.load(file)
        folder = os.path.join(archive.folder.name, "ckpt", checkpoint)
        os.makedirs(folder)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump({**config, "num_hidden_layers": 6}, file)
        return archive.config(checkpoint)

    @classmethod
    def setUpClass(cls):
        cls.archives = {name: Archive(name) for name in cls.LAYOUTS}

    def test_layouts(self):
        for name, archive in self.archives.items():
            entries = [entry for entry in archive.index if entry["side"] == "train"]
            for entry in entries:
                with self.subTest(f"{name} {entry['folder']}"):
                    self.check(archive, entry)
            self.assertEqual(len(entries), self.LAYOUTS[name])

    def one(self, folder, rank=0, **others):
        """A rank's model of an archive's layout."""
        archive = self.archives["engines"]
        (entry,) = (entry for entry in archive.index if entry["folder"] == folder)
        sizes = self.stand(rank, entry, **others)
        return self.model(archive, entry, rank, sizes)

    def refused(self, model, *words):
        with self.assertRaises(refit.UsageError) as caught:
            refit.megatron.side(model)
        for word in words:
            self.assertIn(word, str(caught.exception))
        return caught.exception

    def test_other_orders_of_ranks(self):
        error = self.refused(
            self.one("megatron/qwen3/tp2pp2", 1, tp=0, pp=1), "rank 1 has tp 0 instead of 1, pp 1 instead of 0", "tp-cp-ep-dp-pp"
        )
        self.assertEqual(error.rank, 1)

    def test_other_process_group(self):
        model = self.one("megatron/qwen3/tp2")
        self.core.parallel_state.model_parallel_is_initialized = lambda: False
        self.refused(model, "initialize_model_parallel")
        self.core.parallel_state.model_parallel_is_initialized = lambda: True
        _live.rank_of_trainer = lambda: (0, 6)
        self.refused(model, "6 ranks", "are 2")

    def test_what_is_not_whole(self):
        model = self.one("megatron/qwen3/tp2")
        model[0].ddp_config = types.SimpleNamespace(overlap_param_gather=True)
        self.refused(model, "overlap_param_gather")
        model[0].ddp_config = types.SimpleNamespace(use_megatron_fsdp=True)
        self.refused(model, "Megatron-FSDP")
        del model[0].ddp_config
        name = "decoder.layers.0.mlp.linear_fc2.weight"
        parameters = model[0].module.module._parameters
        sharded, parameters[name] = parameters[name], type("Float8Tensor", (Tensor,), {})((1,), "torch.bfloat16")
        self.assertEqual(self.refused(model, "Float8Tensor", name).tensor, name)
        parameters[name] = Tensor(sharded.shape, sharded.dtype)
        parameters[name].placements = []
        self.refused(model, "DTensor", name)
        parameters[name] = sharded
        self.core.parallel_state.get_gtp_weight_remat_world_size = lambda: 2
        self.refused(model, "gtp_remat")

    def test_vocabulary_that_is_not_padded(self):
        """A Bridge's configuration has the checkpoint's vocabulary."""
        for folder, has_key in (("megatron/qwen3/tp2", False), ("megatron/qwen3_padvocab/tp2_pad128", True)):
            model = self.one(folder)
            with open(self.config(self.archives["engines"], folder.split("/")[1]), encoding="utf-8") as file:
                model[0].module.module.config.vocab_size = json.load(file)["vocab_size"]
            self.assertEqual("make_vocab_size_divisible_by=128" in refit.megatron.side(model)[0], has_key)
            self.assertEqual("vocab" in refit.megatron.side(model)[0], has_key)

    def test_names_of_local_modules(self):
        """The same parameters in Megatron-Core's own modules, which keep norms and experts apart."""
        for folder in ("megatron/qwen3/tp2", "megatron/qwen3_moe/tp2ep2"):
            model = self.one(folder)
            expected = refit.megatron.side(model)
            parameters = model[0].module.module._parameters
            local = {}
            for name, tensor in parameters.items():
                name = name.replace("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight")
                name = name.replace("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight")
                local[re.sub(r"experts\.(linear_fc.)\.weight(\d+)", r"experts.local_experts.\2.\1.weight", name)] = tensor
            self.assertNotEqual(set(local), set(parameters))
            model[0].module.module._parameters = local
            self.assertEqual(refit.megatron.side(model), expected)


if __name__ == "__main__":
    unittest.main()
