"""Dumps what a vLLM engine stores, for `refit diagnose --gen-dump`: paste it into the program that drives the engine.

    settings = {"gen.layout": "TP4", "gen.precision": "bf16", "train.layout": "TP2xPP2"}  # as a case says them
    llm.collective_rpc(export, args=("dumps", settings))  # with VLLM_ALLOW_INSECURE_SERIALIZATION=1

Call it after a refit and before anything rewrites weights (process_weights_after_loading of some MoE backends does).
Engines that are replicas of each other number their ranks one after the other: `first_rank` is 0, TP, 2 TP, ...
"""


def export(worker, folder, settings, first_rank=0):
    """Writes gen-rank-NNNNN.safetensors of this worker, whose rank is DP rank x TP + TP rank."""
    import os

    from safetensors.torch import save_file
    from vllm.distributed import parallel_state

    model = worker.model_runner.model
    persistent = model.state_dict().keys()
    stored = dict(model.named_parameters())
    stored.update((name, buffer) for name, buffer in model.named_buffers() if name in persistent)
    tp = parallel_state.get_tensor_model_parallel_rank()
    dp = parallel_state.get_dp_group().rank_in_group
    rank = first_rank + dp * parallel_state.get_tensor_model_parallel_world_size() + tp
    metadata = {"format": "pt", "rank": str(rank), "coordinates": f"tp={tp} dp={dp}"}
    metadata.update((f"refit.{key}", str(value)) for key, value in settings.items())
    os.makedirs(folder, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in stored.items()}
    save_file(tensors, os.path.join(folder, f"gen-rank-{rank:05}.safetensors"), metadata)
