"""A build for GPUs on a machine without a driver, or with one that is too old: exit code 77, and what to do. The machine
that tests may have one: another libcuda.so.1 stands before it.

    run_no_driver.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER OLD_DRIVER
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402


def refused(suite, what, fake, *words):
    """Where the file `fake` is the driver's library."""
    folder = suite.path(what)
    os.makedirs(folder, exist_ok=True)
    shutil.copy(fake, os.path.join(folder, "libcuda.so.1"))
    path = ":".join(filter(None, (folder, os.environ.get("LD_LIBRARY_PATH"))))
    job = ("--model", "qwen3-4b-small", "--train", "TP1", "--gen", "TP1", "--device", "cuda")
    ended = suite.run(2, "run", *job, within=("env", f"LD_LIBRARY_PATH={path}"))
    suite.check_code(ended, 77, what)
    said = [line for line in ended.err.splitlines() if line.startswith("refit: ")]
    suite.check(len(said) == 1 and all(word in said[0] for word in words), f"{what}: {said}", ended)


def no_driver(suite):
    """A library that cannot be loaded: linked to it, refit would not start."""
    refused(suite, "no-driver", os.devnull, "no GPU driver on this machine", "install a driver for CUDA 1")


def old_driver(suite):
    (library,) = suite.rest
    refused(suite, "old-driver", library, "supports CUDA 11.0, too old for refit", "install a driver for CUDA 1")


Suite(__doc__).main(no_driver, old_driver)
