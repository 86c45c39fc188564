"""Links, keys, options and names in README.md and docs/ exist, and what is generated there is up to date.

pages_test.py --refit EXE --root ROOT
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

from pages import anchors, links, others, pages, prose, spans

COMMANDS = ("run", "plan", "probe", "diagnose", "digest", "inspect", "synth", "convert", "compare", "list")
SECTIONS = "model|adapters|m2n|train|gen|refit|run|output|expect"
README_LINES = 120


class Pages:
    def __init__(self, refit, root):
        self.refit, self.root = refit, pathlib.Path(root).resolve()
        self.texts = {page: (self.root / page).read_text(encoding="utf-8") for page in [*pages(self.root), *others(self.root)]}
        self.problems = []

    def output(self, *arguments):
        environment = {**os.environ, "REFIT_INPUTS": str(self.root / "inputs")}
        return subprocess.run([self.refit, *arguments], check=True, capture_output=True, text=True, env=environment).stdout

    def check_links(self):
        """Relative links lead to files, and their anchors to headings."""
        count = 0
        for page, text in self.texts.items():
            for target in links(text):
                if re.match(r"[a-z]+:", target):
                    if not re.match(r"https://[\w.-]+\.\w+(/|$)", target):
                        self.problems.append(f"{page}: {target} is no address")
                    continue
                count += 1
                name, _, anchor = target.partition("#")
                path = (self.root / page).parent / name if name else self.root / page
                if not path.exists():
                    self.problems.append(f"{page}: there is no {target}")
                elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
                    self.problems.append(f"{page}: {target}: no such heading")
        if count < 50:
            self.problems.append(f"only {count} links were found")

    def check_pages(self):
        """The README is short and leads to every page."""
        readme = self.texts[pathlib.Path("README.md")]
        if len(readme.splitlines()) > README_LINES:
            self.problems.append(f"README.md has more than {README_LINES} lines")
        linked = {target.partition("#")[0] for target in links(readme)}
        for page in self.texts:
            if page.parts[0] == "docs" and str(page) not in linked:
                self.problems.append(f"README.md does not lead to {page}")

    def check_words(self):
        """Options and keys that are named in prose are known to some command."""
        helps = "".join(self.output(command, "--help") for command in COMMANDS)
        options = set(re.findall(r"--[a-z][\w-]*", helps)) | {"--version", "--inputs", "--help"}
        keys = {key["key"] for key in json.loads(self.output("list", "keys", "--json"))}
        results = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]*)", self.texts[pathlib.Path("docs/output.md")], re.M))))
        files = [path for folder in ("lib", "app", "scripts/refit_matrix") for path in (self.root / folder).rglob("*.*")]
        sources = "".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".cpp", ".py"))  # of schemas
        module = set(re.findall(r"\w+", (self.root / "app/python/refit/__init__.py").read_text(encoding="utf-8")))
        for name in ("scripts", "tests/hosts"):
            for path in (self.root / name).rglob("*"):
                if path.is_file() and (path.suffix == ".py" or os.access(path, os.X_OK)):
                    options |= set(re.findall(r"--[a-z][\w-]*", path.read_text(encoding="utf-8", errors="replace")))
        known = options | FOREIGN
        for page, text in self.texts.items():
            if page.parts[0] != "docs" and page != pathlib.Path("README.md"):
                continue
            for span in spans(text):
                for option in re.findall(r"(?:^| )(--[a-z][\w-]*)", span):
                    if option not in known:
                        self.problems.append(f"{page}: `{span}`: no command has {option}")
                for key in re.findall(rf"^((?:{SECTIONS})\.[a-z]\w*)(?: *=.*)?$", span):
                    is_file = re.search(r"\.(h|h5|hpp|safetensors|toml)$", key)
                    if key not in keys | results and f'"{key}"' not in sources and key.removeprefix("refit.") not in module and not is_file:
                        self.problems.append(f"{page}: `{span}` is no key")

    def check_symptoms(self):
        """The table of diagnose.md has every bug of the catalogue."""
        text = self.texts[pathlib.Path("docs/diagnose.md")]
        table = text[text.index("## Symptom and cause") : text.index("## What it finds")]
        named = set(re.findall(r"\bB\d+b?\b", table))
        for first, last in re.findall(r"\bB(\d+) to B(\d+)", table):
            named |= {f"B{number}" for number in range(int(first), int(last) + 1)}
        bugs = {bug["id"] for bug in json.loads(self.output("list", "bugs", "--json"))}
        if missing := bugs - named:
            self.problems.append(f"docs/diagnose.md: no symptom of {sorted(missing)}")

    def check_generated(self):
        command = [sys.executable, self.root / "scripts" / "pages.py", "--check", "--refit", self.refit]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "REFIT_INPUTS": str(self.root / "inputs")})
        if ended.returncode != 0:
            self.problems.append((ended.stdout + ended.stderr).strip())

    def check_wording(self):
        """No page has a placeholder that was forgotten."""
        for page, text in self.texts.items():
            for word in re.findall(r"\b(?:TODO|FIXME|XXX)\b", prose(text)):
                self.problems.append(f"{page}: {word}")


# Options of other programs.
FOREIGN = {
    "--allow-run-as-root", "--oversubscribe", "--bind-to", "--map-by", "--mca", "--mpi", "--kill-on-bad-exit", "--ntasks-per-node",
    "--cpus-per-task", "--gpu-bind", "--exact", "--signal", "--privileged", "--trace", "--preset", "--prefix", "--source-path",
    "--enable-eplb", "--enable-dp-attention", "--target", "--install", "--build",
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refit", required=True)
    parser.add_argument("--root", required=True)
    arguments = parser.parse_args()
    all_pages = Pages(os.path.abspath(arguments.refit), arguments.root)
    for check in (
        all_pages.check_links, all_pages.check_pages, all_pages.check_words, all_pages.check_symptoms, all_pages.check_generated,
        all_pages.check_wording,
    ):  # fmt: skip
        check()
    print("\n".join(all_pages.problems) if all_pages.problems else f"{len(all_pages.texts)} pages")
    sys.exit(1 if all_pages.problems else 0)


if __name__ == "__main__":
    main()
