#!/usr/bin/env python3
"""Compares the trainer's own logits (WORK/trainer-stepK.safetensors) with those of transformers on the checkpoint that it exported, and
that checkpoint with the one before, of which every tensor must have changed.

    TRAIN_PYTHON judge.py --work WORK [--steps 3] --json FILE

Nothing of the trainer is imported: what is judged is that the exported checkpoint is the model that was trained. The engine's half compares
vLLM's logits with the same. Ends with 1 where a tensor did not change, or the mean KL per token reaches 1e-3 nats.
"""

import argparse
import json
import os
import sys

import trainer

LIMIT = 1e-3
FILE = "model.safetensors"


def unchanged(before, after):
    """Names of tensors of two checkpoints, files of one shard each, that are equal."""
    from safetensors import safe_open

    with safe_open(os.path.join(before, FILE), "pt") as old, safe_open(os.path.join(after, FILE), "pt") as new:
        if set(old.keys()) != set(new.keys()):
            raise RuntimeError(f"{before} and {after} have other tensors: {sorted(set(old.keys()) ^ set(new.keys()))}")
        return [name for name in new.keys() if bool((old.get_tensor(name) == new.get_tensor(name)).all())]  # noqa: SIM118


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    import torch
    import transformers
    from safetensors.torch import load_file

    steps = []
    for step in range(1, options.steps + 1):
        model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(options.work, f"step{step}"), dtype=torch.bfloat16)
        with torch.no_grad():
            expected = torch.log_softmax(model(trainer.prompts(model.config.vocab_size)).logits.float(), dim=-1)
        logits = load_file(os.path.join(options.work, f"trainer-step{step}.safetensors"))["logits"]
        found = torch.log_softmax(logits, dim=-1)
        each = (expected.exp() * (expected - found)).sum(dim=-1)
        spread = (expected.exp() * (expected - expected.exp().mean((0, 1)).log())).sum(dim=-1)
        row = {"step": step, "kl_mean": float(each.mean()), "kl_max": float(each.max()), "kl_between_tokens": float(spread.mean())}
        row["unchanged"] = unchanged(*(os.path.join(options.work, f"step{number}") for number in (step - 1, step)))
        steps.append(row)
        print(
            "step {step}: trainer's logits, KL per token mean {kl_mean:.3g}, max {kl_max:.3g} (from the mean of all tokens: "
            "{kl_between_tokens:.3g}); tensors that did not change: {unchanged}".format(**row)
        )
    ok = all(row["kl_mean"] < LIMIT and not row["unchanged"] for row in steps)
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump({"steps": steps, "ok": ok, "transformers": transformers.__version__}, file, indent=1)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
