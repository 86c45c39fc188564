"""Runs every command of a page's `sh` blocks, line by line, as it is printed there.

    commands_test.py --refit EXE --root ROOT --work FOLDER [--spans] PAGE...

A line ends with 0, unless its comment says `exit N`. Blocks of a page run in order in one folder that looks like the source
tree after a build. What a test cannot have stands in for itself (stand_ins.py): clusters, GPUs, installers, engines that
run. Files whose names begin a block as its comment (`# mine.toml`) are there; /data/Qwen3-8B is a small model of that family.

--spans: the `refit ...` commands in back quotes instead, of all pages: a plan stands for a run.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import stat
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import safetensors  # noqa: E402
from pages import blocks, pages, spans  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_SECONDS = 600  # of one block
STAND_INS = ("cmake", "cpack", "curl", "jq", "module", "nsys", "pip", "podman", "python", "reframe", "sbatch", "spack", "srun", "sudo", "apt", "apt-get", "dpkg")
SCRIPT_STAND_INS = ("demo", "test", "setup", "wheel", "matrix.py", "torch_refit.py")
PLACEHOLDER = re.compile(r"\.\.\.|…|\b[A-Z][A-Z_]{2,}\b|[{}<>|]")


class Place:
    """The folder in which a page's commands run."""

    def __init__(self, refit, root, work):
        self.refit, self.root, self.work = refit, root, work
        for folder in ("bin", "scripts", "build/cpu/bin", "build/cuda/bin", "data", "tmp"):
            (work / folder).mkdir(parents=True)
        for name in ("inputs", "tests", "docs", "examples", "results", "app", "lib"):
            (work / name).symlink_to(root / name)
        for path in (root / "scripts").iterdir():
            if path.name not in SCRIPT_STAND_INS:
                (work / "scripts" / path.name).symlink_to(path)
        for name in SCRIPT_STAND_INS:
            self.stand_in(work / "scripts" / name)
        for name in STAND_INS:
            self.stand_in(work / "bin" / name)
        if jq := shutil.which("jq"):
            (work / "bin/jq").unlink()
            (work / "bin/jq").symlink_to(jq)
        (work / "build/cpu/bin/refit").symlink_to(refit)
        (work / "bin/refit").symlink_to(refit)
        self.stand_in(work / "build/cuda/bin/refit")
        self.environment = {
            **os.environ,
            "PATH": f"{work / 'bin'}:{os.environ['PATH']}",
            "HOME": str(work),
            "REFIT_INPUTS": str(root / "inputs"),
            "REFIT_TEST_ROOT": str(root),
            "REFIT_TEST_EXE": str(refit),
            "REFIT_TEST_PYTHON": sys.executable,
            # As root, and with more ranks than cores, on one host: Open MPI 4's and 5's names.
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "OMPI_MCA_hwloc_base_binding_policy": "none",
            "OMPI_MCA_mpi_yield_when_idle": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
            "HWLOC_COMPONENTS": "-gl",
        }

    def stand_in(self, path):
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "stand_ins.py"}" "$0" "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def fixtures(self, text):
        """Checkpoints, cases and dumps that pages name without making them; those that `text` names."""
        made = "refit synth qwen3-8b-small data/Qwen3-8B" if "/data/Qwen3-8B" in text else "true"
        if re.search(r"-dump vllm\b", text):
            made += " && mpirun -np 8 refit run --checkpoint data/Qwen3-8B --train TP2xPP2 --gen TP4 --set run.update=none --steps 1"
            made += " --dump-gen vllm --dump-train megatron"
        if "/data/adapter" in text:
            self.adapter(self.root / "inputs/models/qwen3-8b-small/config.json")
        ended = self.shell(made)
        if ended.returncode != 0:
            raise SystemExit(ended.stdout)
        (self.work / "CASE.toml").write_text('model.config = "qwen3-4b-small"\ntrain.layout = "TP2"\ngen.layout = "TP2"\n')

    def adapter(self, config, rank=4):
        """A folder as PEFT writes it, with pairs for q_proj of every layer."""
        facts, folder = json.loads(config.read_text()), self.work / "data/adapter"
        folder.mkdir()
        rows, columns = facts["num_attention_heads"] * facts["head_dim"], facts["hidden_size"]
        tensors = {}
        for layer in range(facts["num_hidden_layers"]):
            module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            tensors[f"{module}.lora_A.weight"] = safetensors.Tensor("F32", (rank, columns), struct.pack("<f", 0.5) * rank * columns)
            tensors[f"{module}.lora_B.weight"] = safetensors.Tensor("F32", (rows, rank), struct.pack("<f", 0.25) * rows * rank)
        safetensors.write(folder / "adapter_model.safetensors", tensors)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}))

    def shell(self, script):
        return subprocess.run(
            ["bash", "-c", script], cwd=self.work, env=self.environment, timeout=LIMIT_SECONDS, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip


def commands(block):
    """The block's commands: lines, those that go on joined; compound ones (for ... done) as a whole."""
    found, pending = [], ""
    for line in block.text.splitlines():
        pending += line + "\n"
        if line.endswith("\\") or line.rstrip().endswith("|"):
            continue
        complete = subprocess.run(["bash", "-n", "-c", pending], capture_output=True, check=False).returncode == 0
        if complete:
            if pending.strip() and not pending.strip().startswith("#"):
                found.append(pending)
            pending = ""
    if pending.strip():
        raise SystemExit(f"line {block.line}: no whole command: {pending}")
    return found


def wanted_code(command):
    comment = re.search(r"#.*\bexit (\d+)", command)
    return int(comment[1]) if comment else 0


def run_block(place, page, block):
    """The block as one script, in which every command's exit code is looked at. Returns what went wrong."""
    script = 'check() { [ "$1" = "$2" ] || { echo "exit code $1, not $2, of: $3"; exit 99; }; }\nmodule() { command module "$@"; }\n'
    for command in commands(block):
        command = re.sub(r"(?<![\w/])/(data|tmp)/", rf"{place.work}/\1/", command)
        script += f"{command.rstrip()}\ncheck $? {wanted_code(command)} {shlex.quote(command.strip())}\n"
    try:
        ended = place.shell(script)
    except subprocess.TimeoutExpired as error:
        return [f"{page}:{block.line}: not ended after {LIMIT_SECONDS} s\n{(error.stdout or b'')[-2000:]}"]
    return [] if ended.returncode == 0 else [f"{page}:{block.line}: {ended.stdout[-3000:]}"]


def run_page(place, page, text):
    problems, count = [], 0
    for block in blocks(text):
        name = re.match(r"# ([\w./-]+\.(?:toml|json))\n", block.text)
        if name:
            (place.work / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (place.work / name[1]).write_text(block.text, encoding="utf-8")
        if block.language == "sh":
            problems += run_block(place, page, block)
            count += len(commands(block))
    return count, problems


def run_spans(place, page, text):
    """Commands in back quotes that are complete: plans, lists and inspections as they are, runs as plans."""
    problems, count = [], 0
    for span in spans(text):
        words = re.fullmatch(r"(?:mpirun -np \d+ )?(?:build/cpu/bin/)?refit (run|plan|list|inspect) (.+)", span)
        is_part = words and re.fullmatch(r"--[\w-]+( [a-z0-9]+)?", words[2]) is not None  # an option by itself
        if not words or is_part or PLACEHOLDER.search(span):
            continue
        count += 1
        verb, rest = words.groups()
        ended = place.shell(f"refit {'plan' if verb == 'run' else verb} {rest} > /dev/null")
        if ended.returncode != 0:
            problems.append(f"{page}: `{span}`: exit code {ended.returncode}: {ended.stdout[-500:]}")
    return count, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--refit", "--root", "--work"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--spans", action="store_true")
    parser.add_argument("pages", nargs="*")
    arguments = parser.parse_args()
    root, work = arguments.root.resolve(), arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)  # its links to the source tree above all
    total, problems = 0, []
    for page in map(pathlib.Path, arguments.pages or pages(root)):
        text = (root / page).read_text(encoding="utf-8")
        place = Place(arguments.refit.resolve(), root, work / page.with_suffix(""))
        if not arguments.spans:
            place.fixtures(text)
        count, wrong = (run_spans if arguments.spans else run_page)(place, page, text)
        total += count
        problems += wrong
    print("\n\n".join(problems) if problems else f"{total} commands")
    sys.exit(1 if problems or total == 0 else 0)


if __name__ == "__main__":
    main()
