"""Reads the #include lines of lib/, kernels/ and app/ and enforces the rules on who may include what.

    includes_test.py ROOT        checks the tree; one line per violation, exit code 1 if there is any
    includes_test.py --selftest  checks that planted violations in a temporary tree are found
"""

import os
import re
import sys
import tempfile

# A: [B, ...] means that A may include B, and everything that B may include. A folder may include itself.
MAY_INCLUDE = {
    "core": [],
    "version": [],
    "model": ["core"],
    "layout": ["model"],
    "train": ["layout"],
    "gen": ["layout"],
    "inject": ["session"],
    "m2n": ["layout"],
    "plan": ["layout"],
    "kernels": ["core"],
    "report": ["plan", "version"],
    "checkpoint": ["plan", "kernels"],
    "transport": ["plan", "kernels"],
    "transport/mpi": ["transport"],
    "verify": ["layout", "transport", "kernels"],
    "session": ["transport", "verify"],
    "pair": ["train", "gen", "session"],
    "embed": ["pair", "version"],
    "case": ["pair", "m2n", "checkpoint", "report"],
    "engine": ["case", "inject", "transport/mpi"],
    "explain": ["engine"],
    "diagnose": ["engine"],
    "digest": ["diagnose"],
    "app": ["engine", "explain", "diagnose", "digest"],
    "app/python": ["embed"],
}
ANYONE = set(MAY_INCLUDE)
PURE = {"core", "version", "model", "layout", "plan", "train", "gen", "inject", "m2n"}

# Name, headers, the folders that may include them, whether headers (.hpp) may.
EXTERNAL = [
    ("Kokkos", re.compile(r"Kokkos_|KokkosExp|kokkos/"), {"kernels"}, True),
    ("MPI", re.compile(r"mpi(\.h|-ext\.h|/)"), {"transport/mpi", "embed"}, True),  # embed: a header for others alone
    ("NCCL", re.compile(r"nccl"), ANYONE - PURE, True),
    ("CUDA", re.compile(r"(cuda|cudaTypedefs|driver_types|nvml|nvtx)"), ANYONE - PURE, True),
    ("HDF5", re.compile(r"(hdf5(_hl)?\.h|H5\w+\.h)"), ANYONE - PURE, True),
    ("CLI11", re.compile(r"CLI/"), ANYONE, False),
    ("toml++", re.compile(r"toml\+\+/|toml\.hpp"), ANYONE, False),
    ("nlohmann JSON", re.compile(r"nlohmann/(?!json_fwd\.hpp)"), ANYONE, False),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SUFFIXES = (".hpp", ".h", ".cpp", ".cu", ".cuh", ".hip", ".inl")
HEADER_SUFFIXES = (".hpp", ".h", ".cuh", ".inl")


def reachable(folder):
    result, todo = set(), [folder]
    while todo:
        current = todo.pop()
        if current not in result:
            result.add(current)
            todo.extend(MAY_INCLUDE[current])
    return result


def folder_of(path):
    """The folder of the table that a path, written from the lib root, lies in: the longest, or its first part."""
    parts = path.split("/")
    two = "/".join(parts[:2])
    return two if len(parts) > 2 and two in MAY_INCLUDE else parts[0]


def check_include(folder, header_file, quote, target):
    """The reasons why a file of `folder` may not include `target`."""
    if ".." in target.split("/") or target.startswith("./"):
        yield f"'{target}' is relative; write it from the lib root"
        return
    for name, pattern, folders, in_headers in EXTERNAL:
        if pattern.match(target):
            if folder not in folders:
                yield f"{folder} may not include {name} ('{target}')"
            elif header_file and not in_headers:
                yield f"{name} ('{target}') belongs in .cpp files only"
            return
    first = folder_of(target)
    if first in MAY_INCLUDE and "/" in target:
        if first not in reachable(folder):
            yield f"{folder} may not include {first} ('{target}')"
    elif quote == '"':
        yield f"'{target}' is not written from the lib root"


def source_files(root):
    """(folder, path) of every source; a folder without a rule has folder None."""
    lib = os.path.join(root, "lib")
    tops = ["kernels", "app"]
    tops += [os.path.join("lib", name) for name in sorted(os.listdir(lib)) if os.path.isdir(os.path.join(lib, name))]
    for top in tops:
        for base, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith(SUFFIXES):
                    path = os.path.join(base, name)
                    folder = folder_of(os.path.relpath(path, root).removeprefix("lib/"))
                    yield (folder if folder in MAY_INCLUDE else None), path


def check_file(folder, path):
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            match = INCLUDE.match(line)
            if match:
                for reason in check_include(folder, path.endswith(HEADER_SUFFIXES), *match.groups()):
                    yield f"{path}:{number}: {reason}"


def check_tree(root):
    """All violations of a tree, and how many files were read."""
    violations, count = [], 0
    for folder, path in source_files(root):
        count += 1
        if folder is None:
            violations.append(f"{path}: its folder has no rule in {os.path.basename(__file__)}")
        else:
            violations.extend(check_file(folder, path))
    return violations, count


# file, its include, and a word of the complaint (None: allowed)
PLANTED = [
    ("lib/plan/plan.hpp", '"layout/layout.hpp"', None),
    ("lib/plan/plan.cpp", '"core/error.hpp"', None),
    ("lib/engine/engine.cpp", '"train/trainers.hpp"', None),
    ("lib/gen/vllm/side.cpp", '"gen/vllm/side.hpp"', None),
    ("lib/case/upstream/upstream.cpp", '"gen/vllm/side.hpp"', None),
    ("lib/engine/engine.hpp", '"kernels/kernels.hpp"', None),
    ("app/main.cpp", '"core/error.hpp"', None),
    ("app/cli.cpp", "<CLI/CLI.hpp>", None),
    ("kernels/copy.cpp", "<Kokkos_Core.hpp>", None),
    ("lib/transport/mpi/error.hpp", "<mpi.h>", None),
    ("lib/transport/mpi/control.cpp", '"transport/communicator.hpp"', None),
    ("lib/engine/c.cpp", '"transport/mpi/mpi.hpp"', None),
    ("lib/transport/a.cpp", "<mpi.h>", "transport may not include MPI"),
    ("lib/transport/c.cpp", '"transport/mpi/mpi.hpp"', "transport may not include transport/mpi"),
    ("lib/embed/a.cpp", '"pair/pair.hpp"', None),
    ("lib/embed/b.cpp", '"case/case.hpp"', "embed may not include case"),
    ("lib/embed/c.cpp", '"transport/mpi/mpi.hpp"', "embed may not include transport/mpi"),
    ("app/python/a.cpp", '"embed/refit.h"', None),
    ("app/python/b.cpp", '"engine/engine.hpp"', "app/python may not include engine"),
    ("lib/session/a.cpp", '"transport/mpi/mpi.hpp"', "session may not include transport/mpi"),
    ("lib/report/json.hpp", "<nlohmann/json_fwd.hpp>", None),
    ("lib/core/log.cpp", "<spdlog/spdlog.h>", None),
    ("lib/train/a.cpp", '"gen/gen.hpp"', "train may not include gen"),
    ("lib/gen/a.cpp", '"train/train.hpp"', "gen may not include train"),
    ("lib/train/megatron/a.cpp", '"case/case.hpp"', "train may not include case"),
    ("lib/engine/b.cpp", '"explain/picture.hpp"', "engine may not include explain"),
    ("lib/core/a.hpp", '"model/model.hpp"', "core may not include model"),
    ("lib/plan/a.cpp", '"transport/transport.hpp"', "plan may not include transport"),
    ("lib/report/a.cpp", '"transport/executor.hpp"', "report may not include transport"),
    ("kernels/a.cpp", '"layout/layout.hpp"', "kernels may not include layout"),
    ("lib/engine/a.cpp", '"app/cli.hpp"', "engine may not include app"),
    ("lib/plan/b.cpp", "<mpi.h>", "plan may not include MPI"),
    ("lib/gen/b.cpp", "  <nccl.h>", "gen may not include NCCL"),
    ("lib/core/b.hpp", "<cuda_runtime.h>", "core may not include CUDA"),
    ("lib/model/b.cpp", "<hdf5.h>", "model may not include HDF5"),
    ("lib/layout/b.hpp", "<Kokkos_Core.hpp>", "layout may not include Kokkos"),
    ("lib/transport/b.cpp", "<Kokkos_Core.hpp>", "transport may not include Kokkos"),
    ("lib/plan/c.cpp", '"../layout/layout.hpp"', "is relative"),
    ("lib/plan/d.cpp", '"plan.hpp"', "not written from the lib root"),
    ("app/cli.hpp", "<CLI/CLI.hpp>", ".cpp files only"),
    ("lib/core/c.hpp", "<toml++/toml.h>", ".cpp files only"),
    ("lib/checkpoint/a.hpp", "<nlohmann/json.hpp>", ".cpp files only"),
    ("lib/stray/a.cpp", "<vector>", "has no rule"),
]


def selftest():
    with tempfile.TemporaryDirectory() as root:
        for path, include, _ in PLANTED:
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(f"#pragma once\n#include <vector>\n#include {include}\n")
        violations, count = check_tree(root)
        failures = [] if count == len(PLANTED) else [f"read {count} files instead of {len(PLANTED)}"]
        for path, include, expected in PLANTED:
            found = [line for line in violations if line.startswith(os.path.join(root, path) + ":")]
            if expected is None and found:
                failures.append(f"{path}: {include} is allowed, but: {found}")
            if expected is not None and not any(expected in line for line in found):
                failures.append(f"{path}: {include} was not refused with '{expected}': {found}")
    return failures, count


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    problems, count = selftest() if sys.argv[1] == "--selftest" else check_tree(sys.argv[1])
    if count == 0:
        problems.append(f"{sys.argv[1]}: no source file found")
    print("\n".join(problems) if problems else f"{count} files: every include is allowed")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
