"""One release everywhere, and the commit that a copy of the source says of itself.

    version_test.py ROOT CMAKE
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT, CMAKE = sys.argv[1:]

# Where the release of CMakeLists.txt is repeated, because no tool reads it from there. The first match counts.
PLACES = {
    "CMakeLists.txt": r"(?m)^project\(refit VERSION ([0-9.]+)",
    "CHANGELOG.md": r"(?m)^## \[([0-9.]+)\] - \d{4}-\d\d-\d\d$",
    "CITATION.cff": r"(?m)^version: ([0-9.]+)$",
    "app/engines/vllm/pyproject.toml": r'(?m)^version = "([0-9.]+)"$',
    "scripts/spack/packages/refit/package.py": r'(?m)^    version\("([0-9.]+)"\)$',
}


def releases():
    found = {}
    for path, pattern in PLACES.items():
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            match = re.search(pattern, file.read())
        found[path] = match[1] if match else None
    return found


def commit(source, work):
    """What write_version.cmake says of the copy at `source`, and whether it wrote the file anew."""
    output = os.path.join(work, "version.cpp")
    before = os.stat(output).st_mtime_ns if os.path.exists(output) else None
    script = os.path.join(source, "lib", "version", "write_version.cmake")
    subprocess.run([CMAKE, "-D", f"SOURCE={source}", "-D", f"OUTPUT={output}", "-D", "REFIT_RELEASE=9.8.7", "-P", script], check=True)
    with open(output, encoding="utf-8") as file:
        text = file.read()
    assert '"9.8.7"' in text, text
    return re.search(r'commit\(\) { return "(.*)"; }', text)[1], os.stat(output).st_mtime_ns != before


def copies(work):
    """(what, commit, wanted) of a repository and of copies that git made of it."""
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"]

    def git(*words, at):
        return subprocess.run(["git", *identity, *words], cwd=at, check=True, capture_output=True, text=True).stdout.strip()

    tree = os.path.join(work, "tree")
    shutil.copytree(os.path.join(ROOT, "lib", "version"), os.path.join(tree, "lib", "version"))
    shutil.copy(os.path.join(ROOT, ".gitattributes"), tree)
    yield "no repository", commit(tree, work), ("unknown", True)
    git("init", "-q", ".", at=tree)
    git("add", ".", at=tree)
    git("commit", "-q", "-m", "x", at=tree)
    head = git("rev-parse", "HEAD", at=tree)[:12]
    yield "clean", commit(tree, work), (head, True)
    yield "clean, again", commit(tree, work), (head, False)
    with open(os.path.join(tree, "new.txt"), "w", encoding="utf-8") as file:
        file.write("x")
    yield "an untracked file", commit(tree, work), (head, False)
    with open(os.path.join(tree, "lib", "version", "version.hpp"), "a", encoding="utf-8") as file:
        file.write("// changed\n")
    yield "changed", commit(tree, work), (f"{head}-dirty", True)
    git("tag", "v1", at=tree)
    archive = os.path.join(work, "archive")
    os.mkdir(archive)
    git("archive", "--format=tar", "-o", os.path.join(work, "archive.tar"), "HEAD", at=tree)
    shutil.unpack_archive(os.path.join(work, "archive.tar"), archive)
    yield "an archive of git", commit(archive, work), (head, True)
    inside = os.path.join(tree, "vendored")
    shutil.copytree(os.path.join(ROOT, "lib", "version"), os.path.join(inside, "lib", "version"))
    yield "a copy in somebody else's repository", commit(inside, work), ("unknown", True)


def main():
    found = releases()
    problems = [f"{path} has {one}, CMakeLists.txt {found['CMakeLists.txt']}" for path, one in found.items() if one != found["CMakeLists.txt"]]
    if not shutil.which("git"):
        print("no git: the commit is not tested")
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
            problems += [f"{what}: {got}, not {wanted}" for what, got, wanted in copies(os.path.realpath(work)) if got != wanted]
    print("\n".join(problems) if problems else f"release {found['CMakeLists.txt']} in {len(found)} places")
    sys.exit(1 if problems or not found["CMakeLists.txt"] else 0)


main()
