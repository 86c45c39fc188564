"""Runs the example of the module's README as it is printed there, and `python -m refit`.

readme_test.py ROOT
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(sys.argv[1])


def main():
    text = (ROOT / "app" / "python" / "README.md").read_text()
    (program,) = re.findall(r"```python\n(# two\.py\n.*?)```", text, re.DOTALL)
    model = ROOT / "inputs" / "models" / "qwen3-0.6b-small"
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "two.py").write_text(program)
        command = [sys.executable, f"{folder}/two.py", model, folder]
        ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit(f"exit codes {[rank.returncode for rank in ranks]}:\n{said[0]}\n{said[1]}")
    if len(re.findall(r"tensors_wrong=0, elements=\d{7,}, elements_wrong=0", said[0])) != 3:
        sys.exit(f"not three proofs:\n{said[0]}")
    if len(set(re.findall(r"begins with \[.*?\]", said[1]))) != 3 or "cannot be mapped" in said[1]:
        sys.exit(f"not three steps, or not direct:\n{said[1]}")
    about = subprocess.run([sys.executable, "-m", "refit"], capture_output=True, text=True, check=True).stdout
    if not re.search(r"^refit +\d+\.\d+\.\d+ ", about) or "memory" not in about:
        sys.exit(f"python -m refit says: {about}")
    print("the README's example works")


if __name__ == "__main__":
    main()
