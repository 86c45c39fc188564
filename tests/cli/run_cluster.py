"""What is for clusters, checked without one: batch scripts, the ReFrame test, the Spack package, the container file.

    run_cluster.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER

Tools that the machine lacks (shellcheck, ReFrame, hadolint) are named and skipped: the checks beside them remain.
"""

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import types

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import LIMIT_SECONDS, Suite  # noqa: E402
from launcher import mpirun  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPTS = os.path.join(ROOT, "scripts")
WORD, NUMBER = r"[\w.%+-]+", r"[1-9]\d*"
# What sbatch would take of the directives that are written: their names and values.
DIRECTIVES = {
    "job-name": WORD, "partition": WORD, "account": WORD, "time": r"(\d+-)?\d+:\d\d:\d\d", "nodes": NUMBER,
    "signal": r"TERM@[1-9]\d*", "ntasks": NUMBER, "ntasks-per-node": NUMBER, "cpus-per-task": NUMBER, "gpus-per-node": NUMBER,
    "output": WORD, "exclusive": None,
}  # fmt: skip
HOSTS = "nodes = 2\ncpus_per_node = 4\n"
GPUS = """nodes = 8\ngpus_per_node = 8\ncpus_per_node = 96\npartition = "gpu"\naccount = "x1"\ntime = "1-00:00:00"
nics = ["mlx5_0", "mlx5_1"]\nsocket_interface = "eth0"\nmodules = ["openmpi/5.0", "cuda"]\nmpi = "pmix_v4"\n"""


def skip(what):
    print(f"SKIPPED: {what}", flush=True)


def tool(name):
    path = shutil.which(name)
    if path is None:
        skip(f"{name} is not installed")
    return path


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def with_cuda(suite):
    """refit as a build with CUDA describes itself in its plans."""
    text = f"""#!{sys.executable}
import json, subprocess, sys
code = subprocess.call(["{suite.args.refit}", *sys.argv[1:]])
if code == 0 and "--json" in sys.argv:
    path = sys.argv[sys.argv.index("--json") + 1]
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    document["environment"]["cuda"] = "12.4"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
sys.exit(code)
"""
    path = write(suite.path("refit-cuda"), text)
    os.chmod(path, 0o755)
    return path


def sbatch(suite, case, cluster, *arguments, refit=None):
    path = write(suite.path("cluster.toml"), cluster)
    command = [sys.executable, os.path.join(SCRIPTS, "slurm", "sbatch.py"), case, path, "--refit", refit or suite.args.refit]
    environment = {**os.environ, "REFIT_INPUTS": suite.args.inputs}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)


def check_script(suite, text, ranks, nodes):
    """The directives as sbatch reads them: in front of the first command, each known, together enough for the ranks."""
    head = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    values = {}
    for line in head:
        if match := re.fullmatch(r"#SBATCH --([\w-]+)(?:=(\S+))?", line):
            values[match[1]] = match[2]
        else:
            suite.check(not line.startswith("#SBATCH"), f"a directive that is none: {line}")
    suite.check(text.count("#SBATCH") == len(values), "directives behind a command, or twice")
    for key, value in values.items():
        known = key in DIRECTIVES and (value is None if DIRECTIVES[key] is None else re.fullmatch(DIRECTIVES[key], value))
        suite.check(known, f"directive --{key}={value}")
    suite.check((values["ntasks"], values["nodes"]) == (str(ranks), str(nodes)), f"{values}, not {ranks} ranks on {nodes} nodes")
    per_node = int(values.get("ntasks-per-node", 0))  # Slurm warns where the last node has fewer
    suite.check(per_node * nodes in (0, ranks), f"{values}: tasks of a node")
    return values


def run_script(suite, name, text, srun):
    """Runs a script as Slurm would, with stand-ins for srun and module; what it wrote."""
    folder = suite.path(name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "bin"))
    for command, body in (("srun", srun), ("module", 'echo "module $*"\n')):
        os.chmod(write(os.path.join(folder, "bin", command), f"#!/usr/bin/env bash\n{body}"), 0o755)
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "SLURM_JOB_NAME": name, "SLURM_JOB_ID": "7",
                   "REFIT_INPUTS": suite.args.inputs}  # fmt: skip
    script = write(os.path.join(folder, "job.sh"), text)
    return subprocess.run(["bash", script], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)


def slurm(suite):
    if sys.version_info < (3, 11):
        return skip(f"Python {sys.version.split()[0]} has no TOML reader")
    shellcheck = tool("shellcheck")
    demo = os.path.join(suite.args.inputs, "cases", "demo-synthetic.toml")
    published = os.path.join(suite.args.inputs, "cases", "published", "qwen3-30b-ep8pp2-to-tp2dp8-ffn.toml")
    cuda = with_cuda(suite)
    jobs = {
        "hosts": (sbatch(suite, demo, HOSTS, "--", "--steps", "2"), 6, 2),
        "gpus": (sbatch(suite, published, GPUS, "--", "--executor", "p2p", refit=cuda), 32, 4),
        "without": (sbatch(suite, published, GPUS), 32, 1),
        "changed": (sbatch(suite, demo, HOSTS, "--", "--gen", "TP2"), 4, 1),
        "example": (None, 32, 4),
    }
    with open(os.path.join(SCRIPTS, "slurm", "example.toml"), encoding="utf-8") as file:
        jobs["example"] = (sbatch(suite, published, file.read(), refit=cuda), 32, 4)
    texts = {}
    for name, (ended, ranks, nodes) in jobs.items():
        if not suite.check(ended.returncode == 0, f"{name}: exit code {ended.returncode}: {ended.stderr}"):
            continue
        texts[name] = ended.stdout
        values = check_script(suite, ended.stdout, ranks, nodes)
        suite.check(("gpus-per-node" in values) == (name in ("gpus", "example")), f"{name}: GPUs: {values}")
        path = write(suite.path(f"{name}.sh"), ended.stdout)
        linter = [shellcheck] if shellcheck else ["bash", "-n"]
        linted = subprocess.run([*linter, path], capture_output=True, text=True, check=False)
        suite.check(linted.returncode == 0, f"{name}: {linted.stdout}{linted.stderr}")

    suite.check("built without CUDA" in jobs["without"][0].stderr and "cuda" not in texts["without"].split("exec srun")[1],
                f"without CUDA: {jobs['without'][0].stderr}{texts['without']}")  # fmt: skip
    for name, seconds in (("hosts", 60), ("gpus", 60)):
        suite.check(f"--signal=TERM@{seconds}\n" in texts[name], f"{name}: no signal before the time limit")
    short = sbatch(suite, demo, HOSTS + 'time = "00:02:00"\n')
    suite.check("--signal=TERM@30\n" in short.stdout, f"two minutes: {short.stdout}")
    named = sbatch(suite, "demo-synthetic", HOSTS)
    suite.check(f" run {shlex.quote(os.path.abspath(demo))} " in named.stdout, f"a case by its name: {named.stdout}{named.stderr}")
    for name in ("hosts", "changed"):
        suite.check("srun --mpi=pmix --kill-on-bad-exit=1 " in texts[name], f"{name}: {texts[name]}")

    # srun's stand-in starts what it is told to start: the job passes
    start = " ".join(mpirun(6))
    ended = run_script(suite, "hosts", texts["hosts"], f'while [[ $1 == --* ]]; do shift; done\nexec {start} "$@"\n')
    suite.check(ended.returncode == 0 and ended.stdout.endswith("OK\n"), f"hosts: {ended.stdout[-500:]}{ended.stderr[-500:]}")
    document = suite.result(suite.path("hosts", "hosts-7.json"))
    suite.check(document["status"] == "passed" and len(document["weight_sync"]["samples"]) == 2, f"{document.get('status')}")
    ended = run_script(suite, "gpus", texts["gpus"], 'printf "%s\\n" "$@"\nenv | grep -E "^(NCCL|UCX|OMPI_MCA)_"\n')
    words = ended.stdout.splitlines()
    for word in ("module load openmpi/5.0", "--mpi=pmix_v4", "--gpu-bind=none", "--cpus-per-task=12", "--kill-on-bad-exit=1", "p2p", "cuda",
                 published, "gpus-7.json", "NCCL_IB_HCA==mlx5_0,mlx5_1", "UCX_NET_DEVICES=mlx5_0:1,mlx5_1:1",
                 "NCCL_SOCKET_IFNAME=eth0"):  # fmt: skip
        suite.check(word in words, f"gpus: no {word} in {words} {ended.stderr}")

    def refused(what, wanted, case, cluster, *arguments):
        ended = sbatch(suite, case, cluster, *arguments)
        suite.check(ended.returncode == 2 and not ended.stdout, f"{what}: exit code {ended.returncode}: {ended.stdout}")
        suite.check(wanted in ended.stderr and "Traceback" not in ended.stderr, f"{what}: {ended.stderr}")

    refused("an unknown key", "unknown key node; did you mean nodes?", demo, "node = 2\n" + HOSTS)
    refused("a missing key", "cpus_per_node is missing", demo, "nodes = 2\n")
    refused("no TOML", "cluster.toml: ", demo, "nodes = \n")
    refused("a wrong type", "nodes must be a whole number", demo, 'nodes = "2"\ncpus_per_node = 4\n')
    refused("a truth", "nodes must be a whole number", demo, "nodes = true\ncpus_per_node = 4\n")
    refused("a negative", "gpus_per_node must be at least 0", demo, HOSTS + "gpus_per_node = -1\n")
    refused("a command", "partition: 'gpu; reboot' is no word", demo, HOSTS + 'partition = "gpu; reboot"\n')
    refused("a NIC", "nics: 3 is no word", demo, HOSTS + "nics = [3]\n")
    refused("a time", "time: 'soon' is no time", demo, HOSTS + 'time = "soon"\n')
    refused("too many ranks", "needs 6 ranks, which is 2 nodes of 4 cores", demo, "nodes = 1\ncpus_per_node = 4\n")
    refused("few cores", "every rank needs a core", demo, "nodes = 1\ncpus_per_node = 4\ngpus_per_node = 8\n", "--refit", cuda)
    refused("a wrong case", "is none of TP, EP", demo, HOSTS, "--", "--gen", "TQ2")
    refused("no case", "absent.toml", suite.path("absent.toml"), HOSTS)
    refused("no refit", "build it, or name one with --refit", demo, HOSTS, "--refit", suite.path("absent"))


def stub(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    return module


def load(path, stubs, words=()):
    """Executes a Python file whose imports are stand-ins, and in which `words` have a meaning."""
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        spec = importlib.util.spec_from_file_location("under_test", path)
        module = importlib.util.module_from_spec(spec)
        sys.dont_write_bytecode = True
        module.__dict__.update(words)
        spec.loader.exec_module(module)
        return module
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def reframe(suite):
    """Its cases need as many ranks as it asks for; ReFrame itself finds all of them."""
    path = os.path.join(SCRIPTS, "reframe", "refit_checks.py")

    def keep(function):
        return function

    names = ("variable", "parameter", "run_before", "run_after", "sanity_function", "performance_function")
    # ReFrame's own words are in a test's namespace without an import.
    words = {name: (lambda *args, **more: keep) for name in names} | {"sanity_function": keep}
    with open(path, encoding="utf-8") as file:
        text = file.read()
    rfm = stub("reframe", RunOnlyRegressionTest=object, simple_test=keep)
    sanity, utility = stub("reframe.utility.sanity"), stub("reframe.utility")
    rfm.utility, utility.sanity = utility, sanity
    module = load(path, {"reframe": rfm, "reframe.utility": utility, "reframe.utility.sanity": sanity}, words)
    suite.check(len(module.CASES) >= 4, f"{len(module.CASES)} cases")
    for model, train, gen, ranks in module.CASES:
        ended = suite.run(0, "plan", "--model", model, "--train", train, "--gen", gen, "--json", "case.json", "--force")
        suite.check_code(ended, 0, f"{model} {train} {gen}")
        document = suite.result("case.json", ended)
        needed = document["ranks"]
        suite.check(needed == ranks, f"{model}: needs {needed} ranks, not {ranks}", ended)
    executors = re.search(r"executor = parameter\(\[(.*?)\]\)", text)[1].count('"') // 2
    found = tool("reframe")
    if found is None:
        return None
    command = [found, "-c", path, "--list", "--prefix", suite.path("reframe")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=suite.work, timeout=LIMIT_SECONDS)
    wanted = f"Found {len(module.CASES) * executors} check(s)"
    return suite.check(ended.returncode == 0 and wanted in ended.stdout, f"{wanted}: {ended.stdout[-800:]}{ended.stderr[-400:]}")


def cmake_options():
    with open(os.path.join(ROOT, "CMakeLists.txt"), encoding="utf-8") as file:
        return set(re.findall(r"^(?:option\(|set\()(REFIT_\w+)", file.read(), re.MULTILINE))


def spack(suite):
    """With stand-ins for Spack's words: every package that CMake looks for is a dependency, every option exists."""
    depends, variants = [], []

    class Package:
        def define(self, name, value):
            return f"-D{name}={value}"

        def define_from_variant(self, name, variant):
            suite.check(variant in (*variants, "cuda"), f"variant {variant} is not declared")
            return f"-D{name}=ON"

    class CudaPackage:
        cuda_arch_values = ("80", "90")

    class Spec(dict):
        def __missing__(self, name):
            suite.check(any(re.split(r"[@ ]", one)[0] == name for one, _ in depends), f"{name} is no dependency")
            return types.SimpleNamespace(prefix=f"/prefix/{name}")

        def satisfies(self, what):
            return what == "+cuda"

    words = stub(
        "spack.package", CMakePackage=Package, CudaPackage=CudaPackage,
        version=lambda *a, **k: None, variant=lambda name, **k: variants.append(name),
        depends_on=lambda what, **k: depends.append((what, k.get("when", ""))), generator=lambda *a: None,
    )  # fmt: skip
    path = os.path.join(SCRIPTS, "spack", "packages", "refit", "package.py")
    module = load(path, {"spack": stub("spack", package=words), "spack.package": words})
    package = module.Refit()
    package.spec = Spec()
    defined = [re.match(r"-D(\w+)=", one)[1] for one in package.cmake_args()]
    unknown = set(defined) - cmake_options() - {"Kokkos_ROOT", "NCCL_ROOT"}
    suite.check(len(defined) == 5 and not unknown, f"{defined}: unknown to CMake: {unknown}")
    with open(os.path.join(ROOT, "cmake", "Dependencies.cmake"), encoding="utf-8") as file:
        wanted = re.findall(r"find_package\((\w+)", file.read())
    names = {re.split(r"[@ ]", what)[0] for what, _ in depends}
    spelt = {"CUDAToolkit": "cuda", "RefitKokkos": "kokkos", "nlohmann_json": "nlohmann-json", "Threads": None,
             "NCCLM2N": None}  # Spack has no package of it  # fmt: skip
    missing = {spelt.get(name, name.lower()) for name in wanted} - {None} - names
    suite.check(len(wanted) >= 9 and not missing, f"without a dependency: {missing}")
    suite.check("xxhash" in names, "xxhash")
    with open(os.path.join(SCRIPTS, "spack", "repo.yaml"), encoding="utf-8") as file:
        suite.check(re.fullmatch(r"repo:\n  namespace: refit\n", file.read()), "repo.yaml")


def instructions(text):
    """(word, arguments) of every instruction, with its continued lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


def container(suite):
    path = os.path.join(SCRIPTS, "container", "Containerfile")
    with open(path, encoding="utf-8") as file:
        found = instructions(file.read())
    suite.check({word for word, _ in found} <= {"FROM", "COPY", "WORKDIR", "RUN", "ENV"}, f"instructions {found}")
    stages = []
    for word, rest in found:
        if word == "FROM":
            suite.check(re.fullmatch(r"\S+:\S+( AS \w+)?", rest), f"FROM {rest}: an image has a tag")
            stages.append(rest.split(" AS ")[-1])
        elif word == "COPY" and "--from=" in rest:
            suite.check(re.match(r"--from=(\w+)", rest)[1] in stages[:-1], f"COPY {rest}: no such stage before")
        elif word == "RUN" and "apt-get install" in rest:
            suite.check("apt-get update" in rest and "--yes" in rest and "rm -rf /var/lib/apt/lists" in rest, f"RUN {rest}")
        elif word == "RUN":
            for name in re.findall(r"-D (REFIT_\w+)", rest):
                suite.check(name in cmake_options(), f"{name} is no option of CMake's")
            for name in re.findall(r"scripts/\w+", rest):
                suite.check(os.access(os.path.join(ROOT, name), os.X_OK), f"{name} cannot be executed")
    if hadolint := tool("hadolint"):
        # DL3008: versions are the distribution's
        ended = subprocess.run([hadolint, "--ignore", "DL3008", path], capture_output=True, text=True, check=False)
        suite.check(ended.returncode == 0, ended.stdout)
    check_packages(suite, " ".join(rest for _, rest in found))


def check_packages(suite, text):
    """On the container's own distribution: what the executable links comes from the packages that are installed."""
    with open("/etc/os-release", encoding="utf-8") as file:
        if "VERSION_CODENAME=bookworm" not in file.read():
            return skip("the container's packages: this is not Debian 12")
    if tool("readelf") is None or tool("dpkg") is None:
        return None
    needed = subprocess.run(["readelf", "--dynamic", suite.args.refit], capture_output=True, text=True, check=True).stdout
    linked = subprocess.run(["ldd", suite.args.refit], capture_output=True, text=True, check=True).stdout
    packages = {}
    for name in re.findall(r"\(NEEDED\).*\[(.*)\]", needed):
        library = re.search(rf"{re.escape(name)} => (\S+)", linked)
        if library is None or name.startswith("ld-linux"):
            continue
        owner = subprocess.run(["dpkg", "-S", os.path.realpath(library[1])], capture_output=True, text=True, check=False)
        if owner.returncode == 0:
            packages[name] = owner.stdout.split(":")[0]
    missing = {package for package in packages.values() if package not in text.split()}
    base = {"libc6", "libgcc-s1", "libstdc++6"}
    return suite.check(len(packages) > 5 and missing <= base, f"not installed: {missing - base} for {packages}")


Suite(__doc__).main(slurm, reframe, spack, container)
