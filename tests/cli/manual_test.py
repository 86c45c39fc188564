"""The manual's pages and bash's completion know every command and option that --help shows.

    manual_test.py --refit EXE --inputs FOLDER
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("--refit", required=True)
parser.add_argument("--inputs", required=True)
ARGS = parser.parse_args()
ENVIRONMENT = {**os.environ, "REFIT_INPUTS": ARGS.inputs}

COMPLETE = """
source <("$1" completion bash)
COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); COMPREPLY=()
compopt() { :; }
_refit; printf '%s\\n' "${COMPREPLY[@]}"
"""


def said(*arguments):
    return subprocess.run([ARGS.refit, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def commands():
    return re.findall(r"(?m)^  (\w+)  ", said("--help").split("Subcommands:")[1].split("\n\n")[0])


def options(command):
    """The long options that help lists at the beginning of lines."""
    return set(re.findall(r"(?m)^  (?:-\w,)?(--[\w-]+)", said(*command, "--help").split("\nKeys for")[0]))


def completed(*words):
    """What bash offers for the last of the words, which are split as bash does."""
    ran = subprocess.run(["bash", "-c", COMPLETE, "bash", ARGS.refit, ARGS.refit, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return set(ran.stdout.split())


class Manual(unittest.TestCase):
    def test_each_page_has_every_option_and_no_mistake(self):
        with tempfile.TemporaryDirectory() as folder:
            said("manual", folder)
            pages = {"refit.1": (), **{f"refit-{command}.1": (command,) for command in commands()}}
            self.assertEqual(set(os.listdir(folder)), set(pages))
            for page, command in pages.items():
                with open(os.path.join(folder, page), encoding="utf-8") as file:
                    text = file.read()
                found = set(re.findall(r"\\fB(?:-\w, )?(--[\w-]+)\\fR", text.replace("\\-", "-")))
                self.assertEqual(found, options(command), page)
                unknown = set(re.findall(r"(?m)^[.']\S*", text)) - {".TH", ".SH", ".PP", ".TP", ".BR", ".ad"}
                self.assertFalse(unknown, page)
                if shutil.which("mandoc"):
                    lint = subprocess.run(["mandoc", "-T", "lint", os.path.join(folder, page)], capture_output=True, text=True).stdout
                    wrong = [line for line in lint.splitlines() if not re.search("longer than 80 bytes|missing date", line)]
                    self.assertFalse(wrong, page)

    def test_the_first_page_has_commands_and_exit_codes(self):
        with tempfile.TemporaryDirectory() as folder:
            said("manual", folder)
            with open(os.path.join(folder, "refit.1"), encoding="utf-8") as file:
                text = file.read()
        for command in commands():
            self.assertIn(f"\\fB{command}\\fR\n", text)
        self.assertIn("Exit codes: 0 as expected", text)


class Completion(unittest.TestCase):
    def test_commands(self):
        self.assertEqual(completed("pl"), {"plan"})
        self.assertLessEqual(set(commands()), completed(""))

    def test_options_of_each_command(self):
        for command in commands():
            self.assertEqual(completed(command, "--"), options((command,)) | {"--inputs"}, command)

    def test_values(self):
        self.assertEqual(completed("run", "--executor", ""), {"golden", "p2p", "direct", "m2n"})
        self.assertEqual(completed("run", "--executor", "=", "p"), {"p2p"})
        self.assertEqual(completed("plan", "--bulk", "="), {"all", "whitelist", "blacklist", "ffn"})
        self.assertEqual(completed("synth", "--experts", "e"), {"each"})
        self.assertEqual(completed("list", "har"), {"hardware"})

    def test_keys_and_their_values(self):
        self.assertEqual(completed("run", "--set", "run.verif"), {"run.verify="})
        self.assertEqual(completed("run", "--set", "run.colocated", "=", "t"), {"true"})
        self.assertEqual(completed("--inputs", ARGS.inputs, "plan", "--set", "train.trainer", "="), {"megatron", "fsdp"})

    def test_names_of_what_there_is(self):
        self.assertEqual(completed("run", "--model", "qwen3-0.6b"), {"qwen3-0.6b", "qwen3-0.6b-small"})
        self.assertEqual(completed("plan", "--hardware", "h100"), {"h100-50gbps"})
        self.assertIn("all-direct.toml", completed("run", "all-d"))
        self.assertIn("B3-single-expert-mesh", completed("plan", "B3-"))
        self.assertIn("swap-gate-up", completed("run", "--inject", "swap"))

    def test_files_are_left_to_bash(self):
        for words in (("run", "--json", ""), ("compare", ""), ("--inputs", "")):
            self.assertFalse(completed(*words), words)


unittest.main(argv=["manual_test"])
