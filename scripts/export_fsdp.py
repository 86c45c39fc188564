"""Dumps what torch's FSDP2 stores, for `refit diagnose --train-dump`: paste it into the training program.

    export(model, "dumps")  # on every train rank, between optimizer.step() and the next one

`model` is what fully_shard was applied to, or a list of a rank's pipeline stages. Written are the local shards, empty
ones too, under Hugging Face names: parameters and the buffers of the state dict, each once. Ranks are those of the
trainer's process group, whose order is refit's too.
"""


def export(model, folder):
    """Writes train-rank-NNNNN.safetensors of this rank."""
    import os

    import torch
    from safetensors.torch import save_file
    from torch.distributed.tensor import DTensor

    def plain(name):  # without what activation checkpointing and torch.compile put into names
        for word in ("_checkpoint_wrapped_module.", "_orig_mod."):
            name = name.replace(word, "")
        return name

    tensors = {}
    for stage in model if isinstance(model, (list, tuple)) else [model]:
        # state_dict reshards first: after a forward without backward some parameters are whole ones, in another dtype.
        persistent = {plain(name) for name in stage.state_dict()}
        stored = list(stage.named_parameters())  # a tied parameter once
        stored += [(name, buffer) for name, buffer in stage.named_buffers() if plain(name) in persistent]
        for name, tensor in stored:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            tensors[plain(name)] = local.detach().cpu().contiguous().clone()
    rank = torch.distributed.get_rank()
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"train-rank-{rank:05}.safetensors")
    save_file(tensors, path, {"format": "pt", "rank": str(rank)})
