"""Makes small Hugging Face checkpoints with random weights in bfloat16: what training starts from.

TRAIN_PYTHON checkpoints.py qwen3|qwen3_moe FOLDER
"""

import sys

SIZES = {
    "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "initializer_range": 0.08, "tie_word_embeddings": False,
}  # fmt: skip


def model(kind, seed=1):
    """Returns a transformers model of that kind, in bfloat16."""
    import torch
    import transformers

    if kind == "qwen3":
        config = transformers.Qwen3Config(**SIZES, intermediate_size=128)
        made = transformers.Qwen3ForCausalLM
    elif kind == "qwen3_moe":
        config = transformers.Qwen3MoeConfig(**SIZES, intermediate_size=128, moe_intermediate_size=64, num_experts=8,
                                             num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=1)  # fmt: skip
        made = transformers.Qwen3MoeForCausalLM
    else:
        sys.exit(f"{kind}: no such model; qwen3 or qwen3_moe")
    torch.manual_seed(seed)
    result = made(config)
    for parameter in result.parameters():
        if parameter.dim() == 1:  # norms, which are all one otherwise: none could be told from another
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return result.to(torch.bfloat16)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model(sys.argv[1]).save_pretrained(sys.argv[2])
