"""Dumps what Megatron-Core stores, for `refit diagnose --train-dump`: paste it into the training program.

    export(model, "dumps")  # on every train rank, between optimizer.step() and the next one

`model` is what get_model returns: a module, or a list with one for each of the rank's model chunks (virtual pipeline
stages). Ranks are Megatron's own (order tp-cp-ep-dp-pp), which
is refit's numbering too; start the dump from the process group of the trainer alone.
"""


def export(model, folder):
    """Writes train-rank-NNNNN.safetensors of this rank, and .chunk1.safetensors and so on of its further chunks."""
    import os

    import torch
    from safetensors.torch import save_file

    rank = torch.distributed.get_rank()
    os.makedirs(folder, exist_ok=True)
    chunks = list(model) if isinstance(model, (list, tuple)) else [model]
    for number, module in enumerate(chunks):
        while hasattr(module, "module"):  # DistributedDataParallel, Float16Module
            module = module.module
        persistent = module.state_dict().keys()
        stored = dict(module.named_parameters())
        stored.update((name, buffer) for name, buffer in module.named_buffers() if name in persistent)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in stored.items()}
        suffix = f".chunk{number}" if number > 0 else ""
        path = os.path.join(folder, f"train-rank-{rank:05}{suffix}.safetensors")
        save_file(tensors, path, {"format": "pt", "rank": str(rank)})
