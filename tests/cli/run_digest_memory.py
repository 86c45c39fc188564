"""`refit digest` never has a rank's weights, nor its largest parameter, in memory: a few chunks are enough.

    run_digest_memory.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

MIB = 1 << 20
CHUNK = 2 * MIB
# Chunks, what the reader of files and the kernels have beside them, and what an allocator keeps.
ROOM = 56 * MIB


def peak(suite, *arguments):
    """The most memory that a digest had, in bytes."""
    with open(suite.path("digest.out"), "w", encoding="utf-8") as out:
        process = subprocess.Popen([suite.args.refit, "digest", *map(str, arguments)], cwd=suite.work, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    suite.check(process.returncode == 0, f"{arguments}: exit code {process.returncode}")
    return usage.ru_maxrss * 1024


def bounded(suite):
    """Of 271 MB in bf16 with an embedding of 57 MB: unquantised, quantised on the way, and checked against a dump."""
    suite.check_code(suite.run(0, "synth", "smollm2-135m", "big", "--force"), 0, "synth")
    suite.check_code(suite.run(0, "synth", "smollm2-135m-small", "small", "--layers", 1, "--force"), 0, "synth")
    size = os.path.getsize(suite.path("big", "model.safetensors"))
    suite.check(size > 256 * MIB, f"the model has {size} bytes")
    job = ("run", "--checkpoint", "big", "--train", "TP1", "--gen", "TP1", "--steps", 1, "--warmup", 0, "--set", "run.update=none")
    suite.check_code(suite.run(2, *job, "--dump-gen", "big-gen", "--force"), 0, "run")
    least = peak(suite, "small", "--gen", "TP1", "--chunk-bytes", CHUNK)
    for options in ((), ("--precision", "bf16:mxfp8"), ("--from-dump", "big-gen")):
        most = peak(suite, "big", "--gen", "TP1", "--chunk-bytes", CHUNK, *options)
        print(f"{' '.join(options)}: {most / MIB:.0f} MiB of a model of {size / MIB:.0f} MiB; {least / MIB:.0f} MiB without")
        suite.check(most - least < ROOM, f"{options}: {most - least} bytes more than for a tiny model")


def one_expert_storage(suite):
    """An engine's stacked experts, one parameter of 288 MiB: never whole either, also where it is made of loaded ones."""
    with open(os.path.join(suite.args.inputs, "models", "qwen3-30b-a3b-small", "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config |= {"num_experts": 64, "moe_intermediate_size": 1536, "hidden_size": 512, "num_hidden_layers": 1}
    os.makedirs(suite.path("experts"), exist_ok=True)
    with open(suite.path("experts", "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    suite.check_code(suite.run(0, "synth", "experts", "moe", "--force", "--quantisation", "nvfp4"), 0, "synth")
    suite.check_code(suite.run(0, "synth", "experts", "moe-bf16", "--force"), 0, "synth")
    least = peak(suite, "small", "--gen", "TP1", "--chunk-bytes", CHUNK)
    derived = ("--precision", "nvfp4", "--set", "gen.derived=true", "--set", "gen.moe_backend=flashinfer_cutlass")
    for name, options in (("moe-bf16", ()), ("moe", derived)):
        most = peak(suite, name, "--gen", "TP1", "--chunk-bytes", CHUNK, *options)
        size = os.path.getsize(suite.path(name, "model.safetensors"))
        print(f"{name}: {most / MIB:.0f} MiB of a model of {size / MIB:.0f} MiB; {least / MIB:.0f} MiB without")
        suite.check(most - least < ROOM, f"{name}: {most - least} bytes more than for a tiny model")


def whole_tensors(suite):
    """NVFP4 quantises whole tensors, of many sizes, that come and go: what is freed goes back, and does not add up by layers."""
    with open(os.path.join(suite.args.inputs, "models", "qwen3-0.6b", "config.json"), encoding="utf-8") as file:
        config = json.load(file) | {"num_hidden_layers": 12, "vocab_size": 1024}
    os.makedirs(suite.path("wide-config"), exist_ok=True)
    with open(suite.path("wide-config", "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    suite.check_code(suite.run(0, "synth", "wide-config", "wide", "--force"), 0, "synth")
    suite.check_code(suite.run(0, "synth", "smollm2-135m-small", "small", "--layers", 1, "--force"), 0, "synth")
    least = peak(suite, "small", "--gen", "TP1", "--chunk-bytes", CHUNK)
    most = peak(suite, "wide", "--gen", "TP1", "--chunk-bytes", CHUNK, "--precision", "bf16:nvfp4")
    size = os.path.getsize(suite.path("wide", "model.safetensors"))
    print(f"NVFP4: {most / MIB:.0f} MiB of a model of {size / MIB:.0f} MiB; {least / MIB:.0f} MiB without")
    suite.check(most - least < ROOM, f"NVFP4: {most - least} bytes more than for a tiny model")


Suite(__doc__).main(bounded, one_expert_storage, whole_tensors)
