#!/usr/bin/env python3
"""`refit digest` against the weight checkers of real engines.

    GEN_PYTHON scripts/integration/digest_engines.py --refit build/cpu/bin/refit --sglang FOLDER [--record FILE] [CASE ...]

For each case `refit synth` writes a checkpoint of a small model. vLLM loads it by its own loader, on every rank of the layout, and its own
weight checksum (compute_tensor_digests) gives the answer that POST /weight_checker would. SGLang's own weight checker (sglang_checker.py;
FOLDER: an unpacked wheel) is given what the ranks of the same layout hold in SGLang, by the dumps of a refit, as tensors of a CPU and as
tensors of a GPU. `refit digest --from-engine` must call every answer equal, and a dump of what vLLM holds must pass `--from-dump`. With
--record all answers are written to FILE (tar.xz), with which a test repeats the comparison without engines. Ends with 0 if all was right."""

from __future__ import annotations

import argparse
import importlib.metadata as packages
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit_vllm import Case as FittingCase
from fit_vllm import choose_kernels

# Sizes of which TP4 cuts whole blocks of 128 x 128.
SIZES = {
    "vocab_size": 192,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 128,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "decoder_sparse_step": 1, "mlp_only_layers": []}
LATENT = {
    **{key: value for key, value in SIZES.items() if key != "head_dim"},
    "num_hidden_layers": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "first_k_dense_replace": 1,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 128,
    "v_head_dim": 128,
    "num_nextn_predict_layers": 0,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SIZES),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**SIZES, **EXPERTS}),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", LATENT),
}


@dataclass(frozen=True)
class Case:
    model: str
    precision: str
    tp: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.precision}-TP{self.tp}"


CASES = {case.name: case for case in (Case(model, precision, tp) for model in MODELS for precision in ("bf16", "fp8") for tp in (1, 2, 4))}


def config_of(case: Case) -> dict[str, Any]:
    import transformers

    config_class, architecture, sizes = MODELS[case.model]
    config = getattr(transformers, config_class)(**sizes).to_dict()
    return config | {"architectures": [architecture], "dtype": "bfloat16"}


def load(case: Case, folder: Path, rank: int) -> Any:
    """Returns vLLM's model of one rank, loaded and processed by vLLM."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    config = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        tensor_parallel_size=case.tp,
        distributed_executor_backend="mp" if case.tp > 1 else None,
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
    ).create_engine_config()
    config.parallel_config.rank = rank
    with set_current_vllm_config(config):
        parallel_state.ensure_model_parallel_initialized(case.tp, 1)
        return get_model(vllm_config=config)


def keep_weights() -> None:
    """Lets vLLM keep the weights of unquantised linear layers, as it does on GPUs: its CPU platform packs them for its own kernels."""
    from vllm.model_executor.layers import utils

    utils.dispatch_cpu_unquantized_gemm = lambda *_, **__: None


def work(rank: int, port: int, tp: int, folders: dict[str, Path], answers: Any) -> None:
    """One rank of vLLM: loads all cases of one TP."""
    name = ""
    try:
        import torch
        from safetensors.torch import save_file
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.distributed import parallel_state
        from vllm.model_executor.model_loader.weight_checksum import compute_tensor_digests

        torch.set_num_threads(1)
        os.environ["VLLM_DIST_IDENT"] = f"{os.getppid()}_{port}"
        choose_kernels(FittingCase("", experts="TRITON", fp8="TritonFp8BlockScaledMMKernel"))
        keep_weights()
        with set_current_vllm_config(VllmConfig()):
            parallel_state.init_distributed_environment(tp, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
        for name, folder in folders.items():
            model = load(CASES[name], folder / "checkpoint", rank)
            # Worker.compute_weight_checksums: the prefix is that of the worker's groups.
            digests = {f"dp0:pp0:pcp0:tp{rank}:{key}": digest for key, digest in compute_tensor_digests(model).items()}
            held = {key: parameter.detach().cpu().contiguous().clone() for key, parameter in model.named_parameters()}
            save_file(held, str(folder / "vllm" / f"gen-rank-{rank:05}.safetensors"))
            torch.distributed.barrier()
            del model, held
            parallel_state.destroy_model_parallel()  # the next model has groups of its own
            answers.put((name, digests, ""))
    except Exception:  # goes to the table
        answers.put((name, {}, traceback.format_exc()))


def vllm_answers(tp: int, folders: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Returns an answer for each case; none for those behind one that failed."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.Queue()
    processes = [context.Process(target=work, args=(rank, port, tp, folders, queue)) for rank in range(tp)]
    for process in processes:
        process.start()
    found: dict[str, dict[str, str]] = {}
    for _ in range(tp * len(folders)):
        name, digests, error = queue.get(timeout=1800)
        if error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            found.pop(name, None)
            break
        found.setdefault(name, {}).update(digests)
    for process in processes:
        process.join(60)
        process.kill()
    return {name: {"checksums": dict(sorted(digests.items()))} for name, digests in found.items()}


def sglang_answer(checker: Any, dumps: Path, ranks: int, on_gpu: bool) -> dict[str, Any]:
    from safetensors.torch import load_file

    files = [dumps / f"gen-rank-{rank:05}.safetensors" for rank in range(ranks)]
    return {"ranks": [checker.checksum(load_file(file), on_gpu, tp_rank=rank, tp_size=ranks) for rank, file in enumerate(files)]}


def execute(*words: Any) -> str:
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-2000:]}")
    return ended.stdout.strip().splitlines()[-1] if ended.stdout.strip() else ""


def prepare(case: Case, refit: str, folder: Path) -> None:
    (folder / "config").mkdir(parents=True)
    (folder / "vllm").mkdir()
    (folder / "config" / "config.json").write_text(json.dumps(config_of(case)))
    quantised = ["--quantisation", "fp8"] if case.precision == "fp8" else []
    execute(refit, "synth", folder / "config", folder / "checkpoint", "--seed", 1, *quantised)


def compare(case: Case, refit: str, checker: Any, mpirun: list[str], folder: Path, answers: dict[str, Any]) -> str:
    """Adds SGLang's answers, and has all of them compared."""
    common = ["--gen", f"TP{case.tp}", "--precision", case.precision]
    of_sglang = ["--set", "gen.engine=sglang"]
    job = [*mpirun, "-np", 1 + case.tp, refit, "run", "--checkpoint", folder / "checkpoint", "--train", "TP1", *common, *of_sglang]
    execute(*job, "--set", "run.update=none", "--steps", 1, "--warmup", 0, "--dump-gen", folder / "sglang")
    for kind in ("sglang", "sglang-cpu"):
        answers[kind] = sglang_answer(checker, folder / "sglang", case.tp, kind == "sglang")
    texts = []
    for kind, answer in answers.items():
        (folder / f"{kind}.json").write_text(json.dumps(answer))
        of_vllm = ["--set", "gen.derived=true"] if (case.model, case.precision) == ("deepseek_v3", "bf16") else []
        engine = of_vllm if kind == "vllm" else of_sglang
        texts.append(execute(refit, "digest", folder / "checkpoint", *common, *engine, "--from-engine", folder / f"{kind}.json"))
    texts.append(execute(refit, "digest", folder / "checkpoint", *common, *of_vllm, "--from-dump", folder / "vllm"))
    counts = [text.split()[1] if text.startswith("equal: ") else text for text in texts]
    return f"vLLM {counts[0]}, SGLang (GPU) {counts[1]}, SGLang (CPU) {counts[2]}, vLLM's dump {counts[3]} parameters equal"


def write(record: dict[str, Any], path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path, "w:xz", preset=9) as archive:
        for part, content in {"configs": record["configs"], **record["answers"], "versions": record["versions"]}.items():
            file = Path(folder) / f"{part}.json"
            file.write_text(json.dumps(content, sort_keys=True))
            info = tarfile.TarInfo(f"{part}.json")
            info.size = file.stat().st_size
            with file.open("rb") as data:
                archive.addfile(info, data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--refit", required=True, help="the executable")
    parser.add_argument("--sglang", required=True, type=Path, help="an unpacked wheel of SGLang")
    parser.add_argument("--mpirun", default="mpirun --oversubscribe", help="(default: %(default)s)")
    parser.add_argument("--record", type=Path, help="file to write")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"no such case: {unknown[0]}")
    from sglang_checker import SglangChecker

    checker = SglangChecker(arguments.sglang)
    metadata = next(arguments.sglang.glob("sglang-*.dist-info")).name
    versions = {name: packages.version(name) for name in ("vllm", "torch", "transformers")} | {"sglang": metadata.split("-")[1][: -len(".dist")]}
    print(", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    record: dict[str, Any] = {"versions": versions}
    wrong = 0
    chosen = arguments.cases or list(CASES)
    for tp in (1, 2, 4):
        with tempfile.TemporaryDirectory() as work_folder:
            folders = {name: Path(work_folder) / name for name in chosen if CASES[name].tp == tp}
            for name, folder in folders.items():
                prepare(CASES[name], arguments.refit, folder)
            found = vllm_answers(tp, folders) if folders else {}
            for name, folder in folders.items():
                try:
                    if name not in found:
                        raise RuntimeError("vLLM has no answer")
                    answers = {"vllm": found[name]}
                    text, verdict = compare(CASES[name], arguments.refit, checker, arguments.mpirun.split(), folder, answers), "OK"
                    record.setdefault("configs", {})[CASES[name].model] = config_of(CASES[name])
                    record.setdefault("answers", {})[name] = answers
                except Exception as error:  # goes to the table
                    text, verdict, wrong = f"{type(error).__name__}: {error}", "FAILED", wrong + 1
                print(f"{verdict:<7}{name:<22}{text}", flush=True)
    if arguments.record and wrong == 0:
        write(record, arguments.record)
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
