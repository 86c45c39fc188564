"""Stands in for programs that a test of the pages' commands cannot have or should not run. Each checks what it can of the
command line that a page shows, and does what is left of it.

    stand_ins.py PROGRAM ARGUMENT...
"""

import fnmatch
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(os.environ["REFIT_TEST_ROOT"])
EXE = os.environ["REFIT_TEST_EXE"]


def refuse(text):
    print(f"stand-in: {text}", file=sys.stderr)
    sys.exit(98)


def become(command):
    sys.stdout.flush()
    os.execvp(command[0], command)


def cmake(arguments):
    """Presets and options of the project exist. Builds and installs themselves are what package_test.py is for."""
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    names = {preset["name"] for preset in presets["configurePresets"] + presets["buildPresets"]}
    cache = "".join(path.read_text() for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake"), *(ROOT / "app").rglob("CMakeLists.txt"),
                                                  *(ROOT / "tests").rglob("CMakeLists.txt")])  # fmt: skip
    for before, word in zip(["", *arguments], arguments):
        if before == "--preset" and word not in names:
            refuse(f"there is no preset {word}")
        option = re.fullmatch(r"(?:-D)?([A-Za-z]\w*)=.*", word) if word.startswith("-D") or before == "-D" else None
        if option and not option[1].startswith(("CMAKE_", "MPI_")) and not option[1].endswith("_ROOT") and option[1] not in cache:
            refuse(f"there is no option {option[1]}")
    if "-S" in arguments:  # examples: what is built is refit's own program there
        build = pathlib.Path(arguments[arguments.index("-B") + 1])
        build.mkdir(parents=True, exist_ok=True)
        for source in (ROOT / arguments[arguments.index("-S") + 1]).glob("*.c*"):
            program = build / source.stem
            program.write_text("#!/bin/sh\nexit 0\n")
            program.chmod(0o755)


def without_device(arguments):
    at = arguments.index("--device") if "--device" in arguments else len(arguments)
    return arguments[:at] + arguments[at + 2 :]


def cuda_refit(arguments):
    """A build for GPUs on a machine without them: a run is planned, by one rank, without MPI; hosts are probed."""
    if "run" in arguments and os.environ.get("OMPI_COMM_WORLD_RANK", "0") != "0":
        return
    words = ["plan" if word == "run" else word for word in without_device(arguments)]
    if "--sizes" in words:  # a host's memory is not that of GPUs
        words[words.index("--sizes") + 1] = "4KiB"
    become([EXE, *words, *(["--seconds", "0.01"] if "probe" in words else [])])


def srun(arguments):
    """As many ranks as srun would start, by mpirun."""
    ranks, rest = "1", list(arguments)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word in ("-n", "-N"):
            value = rest.pop(0)
            ranks = value if word == "-n" else ranks
        elif not re.fullmatch(r"--(mpi|kill-on-bad-exit|ntasks-per-node|cpus-per-task|gpu-bind)=[\w-]+|--exact", word):
            refuse(f"srun {word}")
    become(["mpirun", "-np", ranks, *rest])


def matrix(arguments):
    """The first case alone of those that the page wants; whatever starts ranks, mpirun does."""
    launcher = arguments.index("--launcher") if "--launcher" in arguments else None
    words = arguments if launcher is None else arguments[:launcher] + arguments[launcher + 2 :]
    if "--refit" in words:
        at = words.index("--refit")
        words = words[:at] + words[at + 2 :]
    options, of_cases = (words[: words.index("--")], words[words.index("--") :]) if "--" in words else (words, [])
    if "--baseline" in options:  # what is moved has to be the baseline's; how long it takes is not for a test
        at = options.index("--baseline") + 1
        kept = json.loads(pathlib.Path(options[at]).read_text())
        kept["limits"] = dict.fromkeys(kept["limits"], {"warn": 1e9, "fail": 1e9})
        options[at] = "baseline.json"
        pathlib.Path(options[at]).write_text(json.dumps(kept))
    glob = options.index("--only") + 1 if "--only" in options else len(options) + 1
    script = "import sys; from refit_matrix import matrix_file\nprint(*(case.name for case in matrix_file.read(sys.argv[1]).cases))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    ended = subprocess.run([sys.executable, "-c", script, options[0]], capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        refuse(ended.stderr)
    options[glob - 1 : glob + 1] = ["--only", fnmatch.filter(ended.stdout.split(), options[glob] if glob < len(options) else "*")[0]]
    if "cuda" in of_cases and "--full" in options:
        options.remove("--full")
    command = [ROOT / "scripts" / "matrix.py", *options, "--refit", EXE, "--force", *without_device(of_cases)]
    code = subprocess.run([sys.executable, *command], check=False).returncode
    sys.exit(0 if code == 77 else code)  # more ranks than slots


def curl(arguments):
    """A vLLM (port 8000) or an SGLang (30000) that holds what it must: its weight checker's answer."""
    request = sys.stdin.read() if "@-" in arguments else arguments[arguments.index("-d") + 1]
    is_vllm = any(":8000/weight_checker" in word for word in arguments)
    if not is_vllm and not any(":30000/weights_checker" in word for word in arguments):
        refuse(f"curl {arguments}")
    command = [EXE, "digest", "data/Qwen3-8B", "--gen", "TP4", "--json", "engine.json", "--force"]
    subprocess.run([*command, "--set", f"gen.engine={'vllm' if is_vllm else 'sglang'}"], check=True, stdout=subprocess.DEVNULL)
    ranks = json.loads(pathlib.Path("engine.json").read_text())["ranks"]
    checksums = {rank["vllm_prefix"] + one["name"]: one["vllm"] for rank in ranks for one in rank["parameters"] if one["vllm"]}
    if json.loads(request)["action"] == "compare":
        sys.exit(0 if json.loads(request)["baseline"] == checksums else refuse("curl: another baseline than the engine's"))
    of_ranks = [
        {
            "checksums": {one["name"]: one["sglang"] for one in rank["parameters"]},
            "parallelism_info": [{"role": "target", "tp_rank": tp, "tp_size": 4, "pp_rank": 0, "pp_size": 1, "dp_rank": 0, "dp_size": 1}],
        }
        for tp, rank in enumerate(ranks)
    ]
    print(json.dumps({"checksums": checksums} if is_vllm else {"ranks": of_ranks}))


def script(name, arguments):
    """Scripts that install or build: they are whole bash programs, and know the option."""
    path = ROOT / "scripts" / name
    if path.suffix != ".py" and subprocess.run(["bash", "-n", path], check=False).returncode != 0:
        refuse(f"scripts/{name} is no program")
    for word in arguments:
        if word.startswith("--") and word not in path.read_text():
            refuse(f"scripts/{name} does not know {word}")
    if arguments == ["--m2n"]:
        print("M2N_ROOT=/opt/m2n\nNCCL_ROOT=/opt/nccl")


def main():
    name, arguments = os.path.basename(sys.argv[1]), sys.argv[2:]
    if name == "cmake":
        cmake(arguments)
    elif name == "refit":
        cuda_refit(arguments)
    elif name == "srun":
        srun(arguments)
    elif name == "nsys":
        become(arguments[next(i for i, word in enumerate(arguments) if word.endswith("refit")) :])
    elif name == "sbatch":
        become(["bash", "-n", arguments[-1]])
    elif name == "matrix.py":
        matrix(arguments)
    elif name == "sudo":
        become(arguments)
    elif name in ("demo", "test", "setup", "wheel", "torch_refit.py"):
        script(name, arguments)
    elif name == "python":  # readme_test.py runs the module's README
        if arguments[0] != "two.py" and arguments[:2] != ["-m", "refit"]:
            refuse(f"python {arguments}")
    elif name == "curl":
        curl(arguments)
    elif name == "jq":  # where the machine has none: the page's only filter
        expected = json.loads(pathlib.Path(arguments[-1]).read_text())["ranks"]
        baseline = {rank["vllm_prefix"] + one["name"]: one["vllm"] for rank in expected for one in rank["parameters"] if one["vllm"]}
        print(json.dumps({"action": "compare", "baseline": baseline}))


main()
