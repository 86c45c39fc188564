"""`cmake --install`, then the examples by find_package(refit) outside of the tree, at 2, 3 and 4 ranks; what is installed runs by itself."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys

MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser()
    for name in ("build", "root", "work"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    work = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    prefix = work / "prefix"
    run("cmake", "--install", arguments.build, "--prefix", prefix)
    shutil.copytree(arguments.root / "examples", work / "examples")
    run("cmake", "-G", "Ninja", "-S", work / "examples", "-B", work / "build", f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Debug")
    run("cmake", "--build", work / "build")
    mpirun = MPIRUN + (["--allow-run-as-root"] if os.geteuid() == 0 else [])
    environment = {**os.environ, "HWLOC_COMPONENTS": "-gl"}
    for ranks in (2, 3, 4):
        said = run(*mpirun, "-np", ranks, work / "build" / "two_vectors", env=environment)
        if not said.startswith("equal, "):
            sys.exit(f"{ranks} ranks: {said}")
        if ranks > 3:  # the model has no TP3
            continue
        model = prefix / "share" / "refit" / "inputs" / "models" / "qwen3-0.6b-small"
        said = run(*mpirun, "-np", ranks, work / "build" / "two_programs", model, env=environment)
        if "elements are right, digest " not in said:
            sys.exit(f"{ranks} ranks: {said}")
    models = run(prefix / "bin" / "refit", "list", "models", env=environment, cwd=work)
    if "qwen3-8b" not in models:
        sys.exit(f"installed models: {models}")
    if not os.access(prefix / "share" / "refit" / "scripts" / "matrix.py", os.R_OK):
        sys.exit("no scripts installed")
    print("package: ok")


if __name__ == "__main__":
    main()
