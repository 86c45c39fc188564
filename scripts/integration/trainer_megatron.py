#!/usr/bin/env python3
"""The trainer's half with real Megatron-Core: a small Qwen3 or Qwen3-MoE learns for three steps, and is refitted after each.

    TRAIN_PYTHON -m torch.distributed.run --nproc-per-node 4 trainer_megatron.py --work WORK --store HOST:PORT --tp 2 --pp 2

Megatron-Bridge loads WORK/step0 and exports WORK/step1 .. ; refit has no part in it. Forward, backward, pipelines, reductions of
gradients and the optimiser (AdamW with float32 masters of bf16 parameters) are Megatron-Core's, over gloo; megatron_cpu.py says what is
replaced, so that this needs no GPU. Ends with 0 if all steps were right.
"""

import os
import shutil
import sys
from functools import partial
from importlib.metadata import version

for key, value in (("OMP_NUM_THREADS", "1"), ("CUDA_DEVICE_MAX_CONNECTIONS", "1"), ("HF_HUB_OFFLINE", "1"),
                   ("TOKENIZERS_PARALLELISM", "false"), ("TRANSFORMERS_OFFLINE", "1"), ("GLOO_SOCKET_IFNAME", "lo"),
                   ("TORCH_COMPILE_DISABLE", "1")):  # fmt: skip
    os.environ.setdefault(key, value)

import logging
import warnings

warnings.filterwarnings("ignore")
import megatron_cpu
import trainer

SEQUENCES, LENGTH = 8, 32


class Megatron:
    def __init__(self, options):
        import refit.megatron
        import torch
        from megatron.bridge import AutoBridge
        from megatron.core.distributed import DistributedDataParallelConfig, finalize_model_grads
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.utils import get_model_config

        self.work = options.work
        self.bridge = AutoBridge.from_hf_pretrained(os.path.join(options.work, "step0"))
        provider = self.bridge.to_megatron_provider(load_weights=False)
        provider.tensor_model_parallel_size = options.tp
        provider.pipeline_model_parallel_size = options.pp
        provider.expert_model_parallel_size = options.ep
        provider.expert_tensor_parallel_size = 1
        provider.virtual_pipeline_model_parallel_size = options.virtual_stages if options.virtual_stages > 1 else None
        provider.sequence_parallel = options.tp > 1 and options.modules == "te"  # the local norms refuse it
        provider.params_dtype = provider.pipeline_dtype = provider.autocast_dtype = torch.bfloat16
        provider.bf16, provider.fp16 = True, False
        provider.moe_token_dispatcher_type = "alltoall"
        provider.use_cpu_initialization = True
        for fused in ("gradient_accumulation_fusion", "bias_activation_fusion", "bias_dropout_fusion", "apply_rope_fusion",
                      "masked_softmax_fusion", "moe_permute_fusion", "cross_entropy_loss_fusion", "persist_layer_norm",
                      "moe_router_fusion"):  # fmt: skip
            if hasattr(provider, fused):
                setattr(provider, fused, False)
        if options.modules == "local":
            provider.transformer_layer_spec = partial(get_gpt_decoder_block_spec, use_transformer_engine=False)
            provider.moe_grouped_gemm = False
        provider.finalize()
        provider.initialize_model_parallel(seed=1)
        self.model = provider.provide_distributed_model(
            ddp_config=DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=options.distributed_optimizer),
            wrap_with_ddp=True,
            bf16=True,
            use_cpu_initialization=True,
        )
        self.bridge.load_hf_weights(self.model)
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam", lr=options.learning_rate, weight_decay=0.01, clip_grad=1.0, bf16=True, params_dtype=torch.bfloat16,
                use_distributed_optimizer=options.distributed_optimizer,
            ),
            self.model,
        )  # fmt: skip
        config = get_model_config(self.model[0])
        config.grad_scale_func = self.optimizer.scale_loss
        config.finalize_model_grads_func = finalize_model_grads
        self.vocabulary = self.bridge.hf_pretrained.config.vocab_size
        self.spec, _ = refit.megatron.side(self.model)
        names = ("torch", "megatron-core", "megatron-bridge", "transformer-engine", "transformers")
        self.versions = {name: version(name) for name in names}

    def tensors(self):
        import refit.megatron

        return refit.megatron.side(self.model)[1]

    def check(self, plan):
        """The session checks all tensors itself."""

    def step(self, number):
        """Forward and backward of two micro-batches, and the optimiser's step. Returns the loss, on all ranks."""
        import torch
        from megatron.core import parallel_state
        from megatron.core.pipeline_parallel import get_forward_backward_func

        def forward(batches, model):
            tokens = next(batches)
            positions = torch.arange(LENGTH).expand(SEQUENCES, LENGTH)
            output = model(tokens[:, :-1].contiguous(), positions, None, labels=tokens[:, 1:].contiguous())

            def loss(output):
                mean = output.float().mean()
                return mean, {"loss": float(mean)}  # the schedule scales the tensor in place

            return output, loss

        replica = parallel_state.get_data_parallel_rank()
        micro = [trainer.batch(half, replica, SEQUENCES, LENGTH, self.vocabulary) for half in range(2)]
        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=[iter(micro) for _ in self.model],
            model=self.model,
            num_microbatches=len(micro),
            seq_length=LENGTH,
            micro_batch_size=SEQUENCES,
            forward_only=False,
        )
        updated, norm, _ = self.optimizer.step()
        if not updated or not norm > 0:
            raise RuntimeError(f"the optimiser did not step: gradient norm {norm}")
        mean = torch.tensor([sum(part["loss"] for part in losses), float(len(losses))])
        torch.distributed.all_reduce(mean)
        return float(mean[0] / mean[1])

    def logits(self, prompts):
        """Of Megatron-Core's own forward, on the last pipeline stage's first rank."""
        import torch
        from megatron.core import parallel_state
        from megatron.core.pipeline_parallel import get_forward_backward_func

        length = prompts.shape[1]

        def forward(batches, model):
            output = model(next(batches), torch.arange(length).expand(1, length), None)
            return output, lambda output, non_loss_data: output

        for chunk in self.model:
            chunk.eval()
        parts = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=[iter(prompts.split(1)) for _ in self.model],
            model=self.model,
            num_microbatches=len(prompts),
            seq_length=length,
            micro_batch_size=1,
            forward_only=True,
            collect_non_loss_data=True,
        )
        for chunk in self.model:
            chunk.train()
        if not parallel_state.is_pipeline_last_stage(ignore_virtual=True):
            return None
        mine = torch.cat(parts).detach()  # this rank's part of the vocabulary
        whole = [torch.empty_like(mine) for _ in range(parallel_state.get_tensor_model_parallel_world_size())]
        torch.distributed.all_gather(whole, mine, group=parallel_state.get_tensor_model_parallel_group())
        is_first = parallel_state.get_tensor_model_parallel_rank() == parallel_state.get_data_parallel_rank() == 0
        return torch.cat(whole, dim=-1)[..., : self.vocabulary] if is_first else None

    def export(self, folder):
        """Writes what the Bridge gathers; its own save_hf_pretrained wants NVIDIA's modelopt."""
        import torch
        from safetensors.torch import save_file

        weights = dict(self.bridge.export_hf_weights(self.model, cpu=True, show_progress=False))
        if torch.distributed.get_rank() == 0:
            os.makedirs(folder, exist_ok=True)
            shutil.copy(os.path.join(self.work, "step0", "config.json"), folder)
            whole = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
            save_file(whole, os.path.join(folder, "model.safetensors"), {"format": "pt"})


def main():
    parser = trainer.arguments(__doc__)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--ep", type=int, default=1)
    parser.add_argument("--virtual-stages", type=int, default=1)
    parser.add_argument("--modules", choices=("te", "local"), default="te", help="Transformer Engine's, or Megatron-Core's own")
    parser.add_argument("--distributed-optimizer", action="store_true", help="shard the optimiser's state over DP")
    options = parser.parse_args()
    megatron_cpu.install()
    import torch

    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    with megatron_cpu.devices():
        code = trainer.run(options, Megatron)
    torch.distributed.destroy_process_group()
    sys.exit(code)


if __name__ == "__main__":
    main()
