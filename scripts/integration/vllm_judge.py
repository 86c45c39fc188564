"""Logits of the weights that an engine holds, against those of the checkpoint that the trainer exported."""

from __future__ import annotations

from typing import Any

import torch
import transformers

# Of the test's prompts: as many, so long, from a fixed seed.
PROMPTS = 4
TOKENS = 64


def prompts(vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, vocabulary, (PROMPTS, TOKENS), generator=generator).tolist()


def exported_logprobs(folder: str) -> torch.Tensor:
    """Returns log-probabilities [prompts, tokens, vocabulary] of the checkpoint in `folder`, by transformers in bfloat16."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return _logprobs(model)


def held_logprobs(folder: str, ranks: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Returns the same of the weights that vLLM's tensor-parallel ranks hold, which are put together by Qwen3's names (transformers' model
    is made of the config.json in `folder`; not one of its weights is read)."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    missing, unexpected = model.load_state_dict(_hugging_face(config, ranks, set(model.state_dict())), strict=False, assign=True)
    if config.tie_word_embeddings:
        model.tie_weights()
        missing = [name for name in missing if name != "lm_head.weight"]
    if missing or unexpected:
        raise RuntimeError(f"put together from vLLM's tensors: {missing} missing, {unexpected} unknown")
    return _logprobs(model)


def divergence(expected: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Returns the mean and the largest KL(expected || found) per token, in nats."""
    each = (expected.exp() * (expected - found)).sum(dim=-1)
    return float(each.mean()), float(each.max())


@torch.no_grad()
def _logprobs(model: Any) -> torch.Tensor:
    model.eval()
    tokens = torch.tensor(prompts(model.config.vocab_size))
    return torch.log_softmax(model(tokens).logits.float(), dim=-1)


def _hugging_face(config: Any, ranks: list[dict[str, torch.Tensor]], names: set[str]) -> dict[str, torch.Tensor]:
    """Returns the ranks' tensors under transformers' names, as `names` has them: experts one by one or in one tensor. With expert
    parallelism a rank has whole experts, else a part of each."""
    head = config.head_dim
    result: dict[str, torch.Tensor] = {}

    def put(prefix: str, parts: list[tuple[str, torch.Tensor]]) -> None:
        result.update({f"{prefix}{name}": tensor for name, tensor in parts})

    for name in ranks[0]:
        parts = [rank[name] for rank in ranks]
        stem = name.rsplit(".", 2)[0] + "."
        if name.endswith("self_attn.qkv_proj.weight"):
            heads, groups = config.num_attention_heads * head // len(ranks), config.num_key_value_heads * head // len(ranks)
            cut = [part.split([heads, groups, groups]) for part in parts]
            put(stem, [(f"{kind}_proj.weight", torch.cat([piece[i] for piece in cut])) for i, kind in enumerate("qkv")])
        elif name.endswith("mlp.gate_up_proj.weight"):
            halves = [part.chunk(2) for part in parts]
            put(stem, [(f"{kind}_proj.weight", torch.cat([half[i] for half in halves])) for i, kind in enumerate(("gate", "up"))])
        elif name.endswith("experts.routed_experts.w13_weight"):
            halves = [part.chunk(2, dim=1) for part in parts]
            whole = parts[0].shape[0] == config.num_experts
            gate, up = (torch.cat([half[i] for half in halves], dim=1 if whole else 0) for i in range(2))
            put(name.rsplit("routed_experts.", 1)[0], _experts(("gate_proj", gate), ("up_proj", up), "gate_up_proj", names, name))
        elif name.endswith("experts.routed_experts.w2_weight"):
            whole = parts[0].shape[0] == config.num_experts
            down = torch.cat(parts, dim=2 if whole else 0)
            put(name.rsplit("routed_experts.", 1)[0], _experts(("down_proj", down), None, "down_proj", names, name))
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            result[name] = torch.cat(parts, dim=1)
        elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
            result[name] = torch.cat(parts)[: config.vocab_size]
        else:
            result[name] = parts[0]
    return result


def _experts(
    first: tuple[str, torch.Tensor], second: tuple[str, torch.Tensor] | None, packed: str, names: set[str], name: str
) -> list[tuple[str, torch.Tensor]]:
    """Returns experts [E, ., .] as one tensor if transformers has them so, else one by one."""
    tensors = [first] if second is None else [first, second]
    if name.rsplit("routed_experts.", 1)[0] + packed in names:
        return [(packed, torch.cat([tensor for _, tensor in tensors], dim=1))]
    return [(f"{e}.{kind}.weight", tensor[e]) for kind, tensor in tensors for e in range(tensor.shape[0])]
