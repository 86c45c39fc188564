#!/usr/bin/env python3
"""The trainer's half with torch's FSDP2: transformers' Qwen3 or Qwen3-MoE learns for three steps, and is refitted after each.

    TRAIN_PYTHON -m torch.distributed.run --nproc-per-node 4 trainer_fsdp.py --work WORK --store HOST:PORT [--replicas 2] [--masters]

fully_shard, forward, backward, AdamW and the export (get_model_state_dict, save_pretrained) are torch's and transformers' own, over
gloo, with nothing replaced. Ends with 0 if all steps were right.
"""

import os
import shutil
import sys
from importlib.metadata import version

for key, value in (("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "1"), ("GLOO_SOCKET_IFNAME", "lo")):
    os.environ.setdefault(key, value)

import trainer

SEQUENCES, LENGTH = 8, 32


def cut_over_tp(model, mesh):
    """Tensor parallelism as NeMo-RL sets it up for transformers' models."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    plan = {f"model.layers.*.{name}": ColwiseParallel() for name in columns}
    plan |= {f"model.layers.*.{name}": RowwiseParallel() for name in ("self_attn.o_proj", "mlp.down_proj")}
    plan["model.embed_tokens"] = RowwiseParallel(input_layouts=Replicate())
    plan["lm_head"] = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(model, mesh, plan)


class Fsdp:
    def __init__(self, options):
        import refit.fsdp
        import torch
        import transformers
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        ranks, replicas = torch.distributed.get_world_size(), options.replicas
        self.tp = None
        if options.tp > 1:
            meshes = init_device_mesh("cpu", (ranks // options.tp, options.tp), mesh_dim_names=("dp", "tp"))
            mesh, self.tp = meshes["dp"], meshes["tp"]
        elif replicas > 1:
            mesh = init_device_mesh("cpu", (replicas, ranks // replicas), mesh_dim_names=("ddp", "fsdp"))
        else:
            mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("fsdp",))
        self.work = options.work
        self.stored = torch.float32 if options.masters else torch.bfloat16
        self.model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(options.work, "step0"), dtype=self.stored)
        if self.tp is not None:
            cut_over_tp(self.model, self.tp)
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in self.model.model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.model, mesh=mesh, mp_policy=policy)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.learning_rate, weight_decay=0.01)
        self.vocabulary = self.model.config.vocab_size
        self.recipe = "verl" if self.tp is None else "nemo_rl"
        self.spec, _ = refit.fsdp.side(self.model, self.recipe)
        self.versions = {name: version(name) for name in ("torch", "transformers")}

    def tensors(self):
        import refit.fsdp

        return refit.fsdp.side(self.model, self.recipe)[1]

    def check(self, plan):
        import refit.fsdp

        refit.fsdp.check(plan, self.model)

    def step(self, number):
        """Forward and backward of two batches, and the optimiser's step. Returns the mean loss of all ranks."""
        import torch

        self.optimizer.zero_grad()
        losses = []
        for half in range(2):
            replica = torch.distributed.get_rank() // (1 if self.tp is None else self.tp.size())
            tokens = trainer.batch(half, replica, SEQUENCES, LENGTH, self.vocabulary)
            logits = self.model(tokens[:, :-1]).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            (loss / 2).backward()
            losses.append(float(loss))
        if self.tp is not None:  # the norms of heads are whole on every rank, and each rank has seen its own heads
            for name, parameter in self.model.named_parameters():
                if name.endswith(("q_norm.weight", "k_norm.weight")):
                    torch.distributed.all_reduce(parameter.grad.to_local(), group=self.tp.get_group())
        self.optimizer.step()
        mean = torch.tensor([sum(losses) / len(losses)])
        torch.distributed.all_reduce(mean)
        return float(mean) / torch.distributed.get_world_size()

    def logits(self, prompts):
        """Of the sharded model's own forward, on rank 0. It leaves the root's parameters gathered."""
        import torch

        with torch.no_grad():
            result = self.model(prompts).logits
        return result if torch.distributed.get_rank() == 0 else None

    def export(self, folder):
        import torch
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if torch.distributed.get_rank() == 0:
            weights = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
            self.model.save_pretrained(folder, state_dict=weights)
            shutil.copy(os.path.join(self.work, "step0", "config.json"), folder)  # its dtype is that of the files


def main():
    parser = trainer.arguments(__doc__)
    parser.add_argument("--replicas", type=int, default=1, help="HSDP: replicas of the shards")
    parser.add_argument("--tp", type=int, default=1, help="tensor parallelism, without replicas")
    parser.add_argument("--masters", action="store_true", help="keep the weights in float32; else bfloat16")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    code = trainer.run(options, Fsdp)
    torch.distributed.destroy_process_group()
    sys.exit(code)


if __name__ == "__main__":
    main()
