#!/usr/bin/env python3
"""Writes a Slurm batch script that runs a case of refit on a cluster.

    scripts/slurm/sbatch.py CASE.toml scripts/slurm/example.toml > job.sh && sbatch job.sh
    scripts/slurm/sbatch.py CASE.toml CLUSTER.toml --refit /opt/refit/bin/refit -- --steps 20 --executor direct

`refit plan` says how many ranks the case needs, and refuses what is wrong with it. What follows `--` is handed to
`refit run` (and to `refit plan`, where it may change the layout). The cluster file's keys are explained in
scripts/slurm/example.toml. Needs Python 3.11.
"""

import argparse
import difflib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:/+@-]*")  # of a directive's value, a device or a module: nothing to quote
TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)|(\d+)")  # days, hours, minutes, seconds; or minutes alone
SIGNAL_SECONDS = 60  # before the time limit, for a result; Slurm may take a minute more

# key: (type, default); None = required
KEYS = {
    "nodes": (int, None), "gpus_per_node": (int, 0), "cpus_per_node": (int, None), "partition": (str, ""),
    "account": (str, ""), "time": (str, "00:30:00"), "nics": (list, []), "socket_interface": (str, ""),
    "modules": (list, []), "mpi": (str, "pmix"),
}  # fmt: skip


def fail(*problems):
    for problem in problems:
        print(f"sbatch.py: error: {problem}", file=sys.stderr)
    sys.exit(2)


def check_value(key, value):
    """What is wrong with a value, or None."""
    kind, _ = KEYS[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        return f"{key} must be {'a whole number' if kind is int else 'a list of words' if kind is list else 'a word'}"
    if kind is int and value < (0 if key == "gpus_per_node" else 1):
        return f"{key} must be at least {0 if key == 'gpus_per_node' else 1}"
    words = value if kind is list else [value] if kind is str else []
    for word in words:
        pattern = TIME if key == "time" else WORD
        if not isinstance(word, str) or not pattern.fullmatch(word):
            return f"{key}: {word!r} is no {'time like 00:30:00' if key == 'time' else 'word of letters, digits and ._-'}"
    return None


def read_cluster(path):
    try:
        import tomllib
    except ImportError:
        fail(f"Python {sys.version.split()[0]} is too old: 3.11 or later can read {path}")
    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except (OSError, ValueError) as error:
        fail(f"{path}: {error}")
    problems = []
    for key, value in given.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            problems.append(f"{path}: unknown key {key}{f'; did you mean {close[0]}?' if close else ''}")
        elif wrong := check_value(key, value):
            problems.append(f"{path}: {wrong}")
    problems += [f"{path}: {key} is missing" for key, (_, default) in KEYS.items() if default is None and key not in given]
    if problems:
        fail(*problems)
    return {key: given.get(key, default) for key, (_, default) in KEYS.items()}


def plan(refit, case, options):
    """The case's document from `refit plan`: its name and ranks."""
    with tempfile.TemporaryDirectory() as folder:
        document = os.path.join(folder, "plan.json")
        command = [refit, "plan", case, *options, "--json", document]
        try:
            ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        except OSError as error:
            fail(f"{refit}: {error.strerror}; build it, or name one with --refit")
        if ended.returncode != 0:
            fail(f"{case}: refit plan refuses it", *ended.stderr.splitlines())
        with open(document, encoding="utf-8") as file:
            return json.load(file)


def without_gpus(cluster, document, refit):
    """The cluster as this build of refit can use it."""
    if not cluster["gpus_per_node"] or document["environment"].get("cuda"):
        return cluster
    print(f"sbatch.py: {refit} is built without CUDA: ranks run on CPUs", file=sys.stderr)
    return {**cluster, "gpus_per_node": 0}


def seconds_of(time):
    """Of a time limit."""
    days, hours, minutes, seconds, alone = (int(part or 0) for part in TIME.fullmatch(time).groups())
    return 60 * alone or ((24 * days + hours) * 60 + minutes) * 60 + seconds


def place(path, cluster, ranks):
    """Nodes, and the most ranks of one."""
    gpus = cluster["gpus_per_node"]
    per_node = gpus or cluster["cpus_per_node"]
    nodes = -(-ranks // per_node)
    if nodes > cluster["nodes"]:
        what = f"{gpus} GPUs" if gpus else f"{per_node} cores"
        fail(f"{path}: the case needs {ranks} ranks, which is {nodes} nodes of {what}, but nodes = {cluster['nodes']}")
    if per_node > cluster["cpus_per_node"]:
        fail(f"{path}: {per_node} ranks on a node with cpus_per_node = {cluster['cpus_per_node']}; every rank needs a core")
    return nodes, min(ranks, per_node)


def directives(cluster, name, nodes, ranks, per_node):
    values = {
        "job-name": re.sub(r"[^A-Za-z0-9_.-]", "-", name) or "refit",
        "partition": cluster["partition"],
        "account": cluster["account"],
        "time": cluster["time"],
        # To the ranks, which then write their result. A short job gets it when a quarter of its time is left.
        "signal": f"TERM@{min(SIGNAL_SECONDS, seconds_of(cluster['time']) // 4)}",
        "nodes": nodes,
        "ntasks": ranks,
        # Slurm warns of a number that the last node does not reach.
        "ntasks-per-node": per_node if ranks == nodes * per_node else 0,
        "cpus-per-task": cluster["cpus_per_node"] // per_node,
        "gpus-per-node": cluster["gpus_per_node"],
        "output": "%x-%j.out",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in values.items() if value]
    return [*lines, "#SBATCH --exclusive"]


def environment(cluster):
    """Lines that load modules and point NCCL, UCX and MPI at the NICs."""
    lines = []
    if cluster["modules"]:
        lines += ["", "# Modules may use unset variables.", "set +u"]
        lines += [f"module load {module}" for module in cluster["modules"]] + ["set -u"]
    gpus, nics, interface = cluster["gpus_per_node"], cluster["nics"], cluster["socket_interface"]
    if nics and gpus:
        lines += [
            "",
            "# The RDMA devices that NCCL may use; of these it gives each GPU the one that is nearest on the PCI bus.",
            "# '=' takes names literally: without it mlx5_1 is also mlx5_10.",
            f"export NCCL_IB_HCA='={','.join(nics)}'",
        ]
    if nics:
        lines += [
            "# The same for MPI where it is built with UCX; port 1 of each.",
            f"export UCX_NET_DEVICES={','.join(f'{nic}:1' for nic in nics)}",
        ]
    if interface:
        lines += ["# Bootstrap goes over this interface: others may lead nowhere from node to node."]
        lines += [f"export NCCL_SOCKET_IFNAME={interface}"] if gpus else []
        lines += [f"export OMPI_MCA_btl_tcp_if_include={interface}", f"export OMPI_MCA_oob_tcp_if_include={interface}"]
    return lines


def launch(cluster, refit, case, options, colocated, per_node):
    lines = [
        "",
        f"# Ranks fill node after node{'' if colocated else ': train ranks first, then gen ranks'}, and neighbours of a TP group "
        "share a node.",
        "# Each rank is bound to cores of its own.",
    ]
    cores = cluster["cpus_per_node"] // per_node  # srun does not take them from sbatch, from Slurm 22.05 on
    srun = ["srun", f"--mpi={cluster['mpi']}", "--kill-on-bad-exit=1", "--distribution=block:block,Pack",
            f"--cpus-per-task={cores}", "--cpu-bind=cores"]  # fmt: skip
    device = []
    if cluster["gpus_per_node"]:
        lines += [
            "# No GPU binding: a rank takes the GPU whose number it has among the ranks of its node, and `direct` has to see",
            "# the node's other GPUs too, to map their memory.",
        ]
        srun.append("--gpu-bind=none")
        device = [] if "--device" in options else ["--device", "cuda"]
    run = [refit, "run", case, *device, *options, "--json"]
    result = '"$SLURM_JOB_NAME-$SLURM_JOB_ID.json"'
    lines += ["# A rank that fails ends all: --kill-on-bad-exit hands refit's exit code on. The time limit's signal goes to the ranks."]
    return [*lines, f"exec {shlex.join(srun)} \\", f"  {shlex.join(run)} {result}"]


def main():
    own, handed = sys.argv[1:], []
    if "--" in own:
        own, handed = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", help="case file, or the name of one that comes with refit")
    parser.add_argument("cluster", help="cluster file")
    parser.add_argument("--refit", help="executable (default: build/cuda/bin/refit where there are GPUs, else build/cpu's)")
    args = parser.parse_args(own)
    cluster = read_cluster(args.cluster)
    preset = "cuda" if cluster["gpus_per_node"] else "cpu"
    refit = os.path.abspath(args.refit or os.path.join(ROOT, "build", preset, "bin", "refit"))
    document = plan(refit, args.case, handed)
    cluster = without_gpus(cluster, document, refit)
    ranks = document["ranks"]
    nodes, per_node = place(args.cluster, cluster, ranks)
    colocated = document["settings"].get("colocated", False)
    lines = [
        "#!/usr/bin/env bash",
        *directives(cluster, document["case"]["name"], nodes, ranks, per_node),
        "#",
        f"# {document['train']['ranks']} train ranks ({document['train']['layout']}) and {document['gen']['ranks']} gen ranks "
        f"({document['gen']['layout']}): "
        f"{'colocated, ' if colocated else ''}{ranks} tasks on {nodes} node{'s' if nodes > 1 else ''}.",
        "set -euo pipefail",
        *environment(cluster),
        *launch(cluster, refit, os.path.abspath(document["case"]["file"]), handed, colocated, per_node),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
