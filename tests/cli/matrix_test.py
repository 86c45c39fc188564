"""scripts/matrix.py from outside: with a stub for refit that ends as its case file says, then one run of the real one.

matrix_test.py --refit EXE --root REPOSITORY [unittest's arguments]
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from page import Page  # noqa: E402

STUB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "matrix_stub.py")


class MatrixTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="refit_matrix_")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.environment = {**os.environ, "STUB_LOG": self.path("stub.log")}

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def read(self, *names):
        with open(self.path(*names), encoding="utf-8") as file:
            return file.read()

    def file(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def matrix(self, text="", **cases):
        """A matrix file m.toml beside its cases: name="how ranks"."""
        for name, words in cases.items():
            self.file(f"cases/{name}.toml", words)
        self.file("m.toml", text or 'files = ["cases/*.toml"]\n')

    def command(self, *words, refit=STUB, launcher=("--launcher", "env RANKS={ranks}")):
        script = os.path.join(ROOT, "scripts", "matrix.py")
        return [sys.executable, script, "m.toml", *launcher, "--refit", refit, "--output", "out", *words]

    def run_matrix(self, code, *words, **options):
        command = self.command(*words, **options)
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )  # fmt: skip
        self.assertEqual(ended.returncode, code, f"{command}\n{ended.stdout}\n{ended.stderr}")
        return ended

    def results(self):
        """{case: its part of matrix.json}"""
        return {case["name"]: case for case in json.loads(self.read("out", "matrix.json"))["cases"]}

    def statuses(self):
        return {name: case["status"] for name, case in self.results().items()}

    def started(self):
        """The stub's runs: [(ranks, arguments, pid)]."""
        if not os.path.exists(self.path("stub.log")):
            return []
        lines = [line.split(" ") for line in self.read("stub.log").splitlines()]
        return [(words[0], words[1:-1], int(words[-1])) for words in lines]

    def wait_for(self, holds):
        deadline = time.monotonic() + 30
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertTrue(holds())

    def test_every_ending(self):
        """Each ends as it ends, and the next one runs all the same."""
        self.matrix(a_pass="pass 2", b_fail="fail 2", c_wait="wait 2", d_lack="lack 2", e_big="pass 9", f_mistake="mistake 2",
                    g_crash="crash 2", h_pass="pass 3")  # fmt: skip
        ended = self.run_matrix(1, "--timeout", "1", "--slots", "8")
        self.assertEqual(self.statuses(), {
            "a_pass": "passed", "b_fail": "failed", "c_wait": "timeout", "d_lack": "waived", "e_big": "waived",
            "f_mistake": "error", "g_crash": "error", "h_pass": "passed",
        })  # fmt: skip
        reasons = {name: case["reason"] for name, case in self.results().items()}
        self.assertEqual(reasons["b_fail"], "5 elements are wrong")
        self.assertIn("after the matrix's 1 s", reasons["c_wait"])
        self.assertEqual(reasons["d_lack"], "there is no GPU")
        self.assertEqual(reasons["e_big"], "needs 9 ranks, and there are 8 slots (--slots)")
        self.assertEqual(reasons["f_mistake"], "an impossible layout")
        self.assertIn("a crash", reasons["g_crash"])
        ranks = {os.path.basename(words[0]): ranks for ranks, words, _ in self.started()}
        self.assertEqual(len(self.started()), 6, "each once; those that are waived not at all")
        found = {name: ranks[f"{name}.toml"] for name in ("a_pass", "f_mistake", "h_pass")}
        self.assertEqual(
            found, {"a_pass": "2", "f_mistake": "1", "h_pass": "3"}, "one rank tells what cannot be planned"
        )
        self.assert_gone()
        self.assertIn("[1/8] a_pass ... passed, 2 ranks", ended.stderr)
        self.assertIn("7 left, about 0 min", ended.stderr)
        self.assertIn("8 of 8 cases: 2 passed, 1 failed, 2 error, 1 timeout, 2 waived", ended.stdout)
        self.check_junit()
        self.check_page()
        with open(self.path("out", "matrix.csv"), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["status"] for row in rows], list(self.statuses().values()))
        self.assertEqual((rows[0]["weight_sync_median"], rows[3]["weight_sync_median"]), ("0.01", ""))

    def assert_gone(self):
        """Nothing that a stub started is left: neither it nor its child in a process group of its own."""
        if os.path.exists(self.path("stub.log.sessions")):
            for pid in self.read("stub.log.sessions").split():
                self.assertFalse(self.lives(pid), f"{pid}, in a session of its own, is left")
        for _, _, session in self.started():
            left = subprocess.run(
                ["ps", "-o", "pid=,stat=,args=", "--sid", str(session)], capture_output=True, text=True
            )
            living = [line for line in left.stdout.splitlines() if line.split()[1][0] != "Z"]
            self.assertEqual(living, [])

    @staticmethod
    def lives(pid):
        left = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
        return left.stdout.strip()[:1] not in ("", "Z")

    def check_junit(self):
        root = ET.fromstring(self.read("out", "matrix.xml"))
        suite = root.find("testsuite")
        numbers = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
        self.assertEqual(numbers, {"tests": "8", "failures": "1", "errors": "3", "skipped": "2"})
        kinds = {case.get("name"): [child.tag for child in case if child.tag not in ("system-out", "properties")] for case in suite}
        self.assertEqual([kinds[name] for name in ("a_pass", "b_fail", "c_wait", "d_lack")],
                         [[], ["failure"], ["error"], ["skipped"]])  # fmt: skip
        failure = suite.find("testcase[@name='b_fail']/failure")
        self.assertEqual(failure.get("message"), "failed: 5 elements are wrong")
        self.assertIn("gen rank 1: lm_head.weight: 5 elements wrong, first at [3, 4]", failure.text)
        crash = suite.find("testcase[@name='g_crash']/error").text
        self.assertIn("line 21\n", crash)
        self.assertNotIn("line 20\n", crash, "more than the last 40 lines")
        self.assertIn("a crash?", crash)
        layout = suite.find("testcase[@name='a_pass']/properties/property[@name='layout']")
        self.assertEqual(layout.get("value"), "TP1 -> TPn")

    def check_page(self):
        page = Page(self.read("out", "index.html"))
        self.assertEqual(page.mistakes, [])
        for words in ("a_pass", "5 elements are wrong", "needs 9 ranks", "<b> & ü", "TP1 → TPn on 2 ranks"):
            self.assertIn(words, page.words)
        self.assertIn("cases/b_fail/log.txt", page.links)
        for link in page.links:
            self.assertTrue(os.path.exists(self.path("out", link)), link)

    def test_waived_is_good(self):
        """One of many, but 77 where nothing ran, and no more than are allowed."""
        self.matrix(a="pass 2", b="lack 2")
        self.run_matrix(0)
        self.run_matrix(0, "--force", "--max-waived", "1")
        self.assertIn("1 cases were waived, more than --max-waived 0", self.run_matrix(1, "--force", "--max-waived", "0").stdout)
        self.assertIn("nothing ran", self.run_matrix(77, "--force", "--only", "b").stdout)

    def test_github(self):
        """A summary with a row per case, and lines that GitHub shows beside a change."""
        self.environment |= {"GITHUB_STEP_SUMMARY": self.path("summary.md"), "GITHUB_ACTIONS": "true"}
        self.file("summary.md", "before\n")
        self.matrix(a="pass 2", b="fail 2")
        ended = self.run_matrix(1)
        self.assertIn("::error title=b::b (TP1 -> TPn): failed: 5 elements are wrong", ended.stdout.splitlines())
        lines = self.read("summary.md").splitlines()
        self.assertEqual(lines[:2], ["before", "## refit matrix: m"])
        self.assertIn("| b | TP1 -> TPn | failed | 10.0 ms |  | failed: 5 elements are wrong |", lines)
        del self.environment["GITHUB_STEP_SUMMARY"], self.environment["GITHUB_ACTIONS"]
        self.assertNotIn("::error", self.run_matrix(1, "--force").stdout)

    def test_side_by_side(self):
        """Variants of a case stand in one row, the fastest as the unit."""
        self.matrix('files = ["cases/*.toml"]\n[[variant]]\nname = "x"\n[[variant]]\nname = "y"\n', a="pass 2")
        self.run_matrix(0)
        words = Page(self.read("out", "index.html")).words
        self.assertIn("Side by side", words)
        self.assertIn("fastest", words)
        self.matrix(a="pass 2")
        self.run_matrix(0, "--force")
        self.assertNotIn("Side by side", Page(self.read("out", "index.html")).words)

    def test_killed_and_resumed(self):
        """Killed without warning: what was finished stays, nothing of the job does, and --resume runs the rest alone."""
        self.matrix(a="pass 2", b="fail 2", c="wait 2", d="pass 2")
        process = subprocess.Popen(self.command(), cwd=self.folder, env=self.environment, stderr=subprocess.DEVNULL)
        self.wait_for(lambda: len(self.started()) == 3)
        process.kill()
        process.wait()
        self.assertEqual(self.statuses(), {"a": "passed", "b": "failed"})
        self.file("cases/c.toml", "pass 2")
        self.run_matrix(2)  # a former run's results are there
        self.assertEqual(len(self.started()), 3)
        ended = self.run_matrix(1, "--resume")
        self.assertIn("[2/4] b ... failed, kept", ended.stderr)
        self.assertEqual(self.statuses(), {"a": "passed", "b": "failed", "c": "passed", "d": "passed"})
        self.assertEqual(len(self.started()), 5)
        self.file("cases/b.toml", "pass 4")  # another case now
        self.run_matrix(0, "--resume")
        self.assertEqual(len(self.started()), 6)

    def test_interrupted(self):
        """SIGINT and SIGTERM end the running job with all its processes; results and page are written."""
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                shutil.rmtree(self.path("out"), ignore_errors=True)
                before = len(self.started())
                self.matrix(a="pass 2", b="wait 2")
                process = subprocess.Popen(
                    self.command(), cwd=self.folder, env=self.environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                )  # fmt: skip
                self.wait_for(lambda: len(self.started()) == before + 2)
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=30), 128 + number)
                self.assert_gone()
                self.assertEqual(self.statuses(), {"a": "passed"})
                self.assertIn("not run", Page(self.read("out", "index.html")).words)

    def test_options(self):
        """Variants, cases of their own, and which of two options holds."""
        self.matrix("""
            files = ["cases/a*.toml"]
            options = ["--steps", "1", "--set", "run.seed=1", "--set", "run.verify=last"]
            [[variant]]
            name = "x"
            [[variant]]
            name = "y"
            options = ["--executor", "p2p"]
            [[case]]
            file = "cases/b.toml"
            name = "own"
            options = ["--steps", "2"]
            full = { file = "cases/a.toml", options = ["--steps=3", "--executor", "direct"] }
        """, a="pass 2", b="pass 4")  # fmt: skip
        self.run_matrix(0, "--", "--set", "run.seed=9")
        self.assertEqual(list(self.statuses()), ["a-x", "a-y", "own-x", "own-y"])
        options = {name: " ".join(case["options"]) for name, case in self.results().items()}
        self.assertEqual(options["a-x"], "--steps 1 --set run.verify=last --set run.seed=9")
        self.assertEqual(options["own-y"], "--set run.verify=last --executor p2p --steps 2 --set run.seed=9")
        self.run_matrix(0, "--full", "--only", "own-*", "--force")
        self.assertEqual({name: case["ranks"] for name, case in self.results().items()}, {"own-x": 2, "own-y": 2})
        self.assertTrue(" ".join(self.results()["own-y"]["options"]).endswith("--steps=3 --executor direct"))

    def test_mistakes(self):
        """Everything that is wrong is said at once; nothing runs."""
        self.matrix('timeout_second = 5\nfiles = ["none/*.toml"]\n[[case]]\nname = "a/b"\nfile = "absent.toml"\n'
                    '[[case]]\noptions = "x"\n[[variant]]\nname = 3\n')  # fmt: skip
        err = self.run_matrix(2).stderr
        for words in (
            "m.toml: timeout_second: unknown key; did you mean timeout_seconds?", "files[0]: no file matches 'none/*.toml'",
            "case[0].name: 'a/b': a name of letters", "case[0].file: no such file: absent.toml",
            "case[1].options: 'x': a list is expected", "case[1].file: missing", "variant[0].name: 3: text is expected",
        ):  # fmt: skip
            self.assertIn(words, err)
        for text, words in (
            ("x = " + "[" * 5000, "nested too deeply"), ("name = ", "Invalid value (at"), ("", "no case"), ("timeout_seconds = -1", "timeout_seconds: -1"),
            ('files = ["cases/*.toml", "cases/a.toml"]', "two cases are called a"), ("files = [3]", "files: 3: text is expected"),
        ):  # fmt: skip
            self.matrix(f"{text}\n", a="pass 2")
            self.assertIn(words, self.run_matrix(2).stderr)
        self.matrix(a="pass 2")
        for words, expected in (
            (("--only", "z*"), "no case matches z*; there are: a"), (("--baseline", "none.json"), "none.json: no baseline"),
            (("--refit", "none"), "none: No such file or directory; build it"), (("--output", "m.toml"), "--output"),
            (("--launcher", "env"), "it has to say {ranks}"), (("--launcher", "no-such-command {ranks}"), "no such command"),
        ):  # fmt: skip
            self.assertIn(expected, self.run_matrix(2, *words).stderr)
        self.file("a.json", "{}")
        os.mkfifo(self.path("fifo"))
        for words, expected in (
            (("--save-baseline", "none/b.json"), "none is no folder"), (("--save-baseline", "a.json"), "which is no baseline"),
            (("--save-baseline", "cases"), "no regular file"), (("--save-baseline", "fifo"), "no regular file"),
            (("--baseline", "fifo"), "fifo: no baseline"),
        ):  # fmt: skip
            self.assertIn(expected, self.run_matrix(2, *words).stderr)
        self.file("b.json", '{"schema": "refit.baseline", "schema_version": 2, "limits": 3}')
        self.assertIn("b.json: limits", self.run_matrix(2, "--baseline", "b.json").stderr)
        os.rename(self.path("fifo"), self.path("m.toml"))
        self.assertIn("m.toml: no regular file", self.run_matrix(2).stderr)
        self.assertEqual(self.started(), [])

    def test_refit_that_hangs(self):
        """--help that does not end is a mistake, and nothing of it is left."""
        sys.path.insert(0, os.path.join(ROOT, "scripts"))
        from refit_matrix import runner

        os.environ["STUB_HANGS"] = "1"
        self.addCleanup(os.environ.pop, "STUB_HANGS")
        with self.assertRaisesRegex(OSError, "did not end within 0.5 s"):
            runner.draws_pictures(STUB, 0.5)

    def test_launcher_that_fails(self):
        """1 of the launcher is no wrong data."""
        self.matrix(a="pass 2")
        self.run_matrix(1, launcher=("--launcher", "sh -c 'echo no interface for MPI; exit 1' {ranks}"))
        case = self.results()["a"]
        self.assertEqual((case["status"], case["exit_code"]), ("error", 1))
        self.assertEqual(case["reason"], "exit code 1 without a result.json: no interface for MPI")
        self.assertEqual(self.started(), [])

    def test_baseline(self):
        """Bytes must be equal, time may grow as the file says, less on its own machine; a new case is no fault."""
        self.matrix(a="pass 2", b="pass 2")
        self.run_matrix(0, "--save-baseline", "base.json")
        for c, words, code, verdict in (
            ("a", "pass 2", 0, "same"), ("c", "pass 2", 0, "new"), ("a", "pass 2 2", 1, "worse"), ("a", "pass 2 1 1.5", 0, "slower"),
            ("a", "pass 2 1 2", 1, "worse"), ("a", "pass 2 1 0.5", 0, "same"),
        ):  # fmt: skip
            self.matrix(**{c: words})
            ended = self.run_matrix(code, "--force", "--baseline", "base.json", "--only", c)
            self.assertEqual(self.results()[c]["baseline"]["verdict"], verdict, words)
            apart = "not compared with the baseline: 1; c: the baseline has no such case\n"
            self.assertEqual(apart in ended.stdout, verdict == "new", ended.stdout)
            if words == "pass 2 2":
                self.assertEqual(self.results()["a"]["baseline"]["differences"], ["payload bulk_bytes is 200, baseline 100"])
                failure = ET.fromstring(self.read("out", "matrix.xml")).find(".//testcase[@name='a']/failure")
                self.assertIn("payload bulk_bytes is 200, baseline 100", failure.get("message"))
            if words == "pass 2 1 2":
                self.assertEqual(self.results()["a"]["baseline"]["differences"], [
                    "least weight_sync / bound is 10, 2 times the baseline's 5: fail above 1.8 (same machine)"
                ])  # fmt: skip
        document = json.loads(self.read("base.json"))
        document["machine"] = "another"
        self.file("other.json", json.dumps(document))
        self.matrix(a="pass 2 1 2")
        self.run_matrix(0, "--force", "--baseline", "other.json", "--only", "a")
        self.assertEqual(self.results()["a"]["baseline"]["verdict"], "same")
        self.assertEqual(self.results()["a"]["baseline"]["change"], 2)
        self.run_matrix(0, "--force", "--save-baseline", "base.json", "--only", "a")
        kept = json.loads(self.read("base.json"))["cases"]
        self.assertEqual({name: case["slowness"] for name, case in kept.items()}, {"a": 10, "b": 5}, "--only keeps the others")

    def test_the_real_one(self):
        """refit under mpirun, with the launcher that the script finds itself."""
        case = os.path.join(ROOT, "inputs", "cases", "eight-ranks", "qwen3-0.6b-tp1-to-tp1.toml")
        self.matrix(f'[[case]]\nname = "tied"\nfile = "{case}"\noptions = ["--steps", "1"]\n')
        self.run_matrix(0, "--save-baseline", "base.json", refit=REFIT, launcher=())
        found = self.results()["tied"]
        self.assertEqual((found["ranks"], found["result"]["verification"]["elements_wrong"]), (2, 0))
        self.assertEqual(json.loads(self.read("base.json"))["cases"]["tied"]["exact"]["KL max"], 0)
        self.assertTrue(os.path.getsize(self.path("out", "cases", "tied", "result.h5")) > 0)
        self.assertEqual(Page(self.read("out", "index.html")).mistakes, [])

    def test_matrices(self):
        """Every case of the project's own matrices can be planned, with 8 ranks at most; large has 16 and more."""
        sys.path.insert(0, os.path.join(ROOT, "scripts"))
        from refit_matrix import matrix_file

        for name in ("l0", "l1", "fp8"):
            matrix = matrix_file.read(os.path.join(ROOT, "inputs", "matrix", f"{name}.toml"))
            matrix_file.read(os.path.join(ROOT, "inputs", "matrix", f"{name}.toml"), full=True)
            for case in matrix.cases:
                if not case.name.endswith("-direct"):
                    continue
                command = [REFIT, "plan", case.file, *case.options, "--json", self.path("plan.json"), "--force"]
                ended = subprocess.run(command, capture_output=True, text=True)
                self.assertEqual(ended.returncode, 0, f"{command}\n{ended.stderr}")
                plan = json.loads(self.read("plan.json"))
                self.assertLessEqual(plan["ranks"], 8, case.name)
        self.assertEqual(len(matrix_file.read(os.path.join(ROOT, "inputs", "matrix", "large.toml")).cases), 30)


if __name__ == "__main__":

    def take(name):
        at = sys.argv.index(name)
        value = os.path.abspath(sys.argv[at + 1])
        del sys.argv[at : at + 2]
        return value

    REFIT, ROOT = take("--refit"), take("--root")
    unittest.main()
