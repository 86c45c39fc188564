"""scripts/compare.py from outside, with results whose differences are known.

compare_test.py --root REPOSITORY [unittest's arguments]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from page import Page  # noqa: E402

LEAST, STEP = 0.010, 0.001  # seconds


def result(scale=1.0, count=5, **settings):
    """A run with samples 10, 11, ... ms times `scale`; of 5 the middle half is 11 to 13 ms."""
    samples = [scale * (LEAST + STEP * i) for i in range(count)]
    median = sorted(samples)[count // 2]
    return {
        "schema": "refit.result", "schema_version": 1, "status": "passed", "exit_code": 0, "start_time": "2026-01-02T03:04:05Z",
        "command": "refit run <case>", "ranks": 4,
        "environment": {"refit": "1", "hosts": [{"name": "h", "cores": 8, "cpu": "X"}], "ranks": [{"rank": 0, "device": "cpu"}]},
        "model": {"family": "qwen3", "tensors": 3, "bytes": 60, "source": "/somewhere"},
        "train": {"layout": "TP2", "ranks": 2, "precision": "bf16"}, "gen": {"layout": "TP2", "ranks": 2, "precision": "bf16"},
        "settings": {"bulk": "all", "executor": "p2p", "steps": count, **settings},
        "payload": {"bulk_bytes": 60_000_000, "misc_bytes": 0, "total_bytes": 60_000_000},
        "bound": {"seconds": 0.006}, "rates": {"memory": 1e11}, "efficiency": 0.006 / median,
        "weight_sync": {"first": samples[0], "samples": samples, "min": min(samples), "median": median, "max": max(samples)},
        "phases": {"bulk": {"min": min(samples), "median": median, "max": max(samples)}},
        "verification": {"elements": 30, "elements_wrong": 0, "kl": {"max": 0.0}},
    }  # fmt: skip


def sweep(**results):
    """A sweep of executors."""
    combinations = [{"values": {"executor": name}, "result": one} for name, one in results.items()]
    return {"schema": "refit.sweep", "schema_version": 1, "command": "c", "start_time": "t", "combinations": combinations}


class CompareTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="refit_compare_")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return self.path(name)

    def compare(self, a, b, *options, code=0):
        """The words of stdout, or of stderr where it fails, with single spaces."""
        files = [self.write(f"{name}.json", content) for name, content in (("a", a), ("b", b))]
        command = [sys.executable, os.path.join(ROOT, "scripts", "compare.py"), *files, *options]
        ended = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(ended.returncode, code, ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)
        return " ".join((ended.stderr if code else ended.stdout).split())

    def page(self):
        with open(self.path("p.html"), encoding="utf-8") as file:
            page = Page(file.read())
        self.assertEqual(page.mistakes, [])
        return " ".join(page.words.split())

    def test_noise(self):
        """1.1 times is within the middle half (11 to 13 and 12.1 to 14.3 ms), 1.3 times (from 14.3 ms) and half are not."""
        self.assertIn("within noise: B's median weight_sync is 1.1 times A's: no more than noise", self.compare(result(), result(1.1)))
        told = self.compare(result(), result(1.3))
        self.assertIn("slower: B's median weight_sync is 1.3 times A's: more than noise", told)
        self.assertIn("weight_sync median (ms) 12 15.6 1.3 *", told)
        self.assertIn("algbw (GB/s) 5 3.846 0.769", told)
        self.assertIn("settings: the same environment: the same", told)
        self.assertIn("faster: B's median weight_sync is 0.5 times A's", self.compare(result(), result(0.5)))

    def test_few_samples(self):
        """Of 3 samples all count: 10 to 12 and 11.5 to 13.8 ms; one has no spread."""
        self.assertIn("within noise: ", self.compare(result(count=3), result(1.15, count=3)))
        self.assertIn("with one sample nobody knows the noise", self.compare(result(count=1), result(9.0, count=1)))

    def test_other_work_is_no_improvement(self):
        """Neither of other settings, nor of another payload, nor of wrong data; more steps are the same work."""
        told = self.compare(result(), result(0.5, executor="direct"))
        self.assertIn("executor: A p2p, B direct", told)
        self.assertIn("other settings: B's median weight_sync is 0.5 times A's, but they did not do the same: executor", told)
        less = result(0.5)
        less["payload"]["total_bytes"] = 30_000_000
        self.assertIn("did not do the same: payload.total_bytes", self.compare(result(), less))
        wrong = result(0.5)
        wrong["verification"]["elements_wrong"] = 1
        told = self.compare(result(), wrong)
        self.assertIn("wrong data: B's data are wrong", told)
        self.assertNotIn("faster", told)
        self.assertIn("faster: ", self.compare(result(), result(0.5, count=7)))

    def test_environment_and_page(self):
        """Another machine can be faster; the page has the words of the terminal, and nothing in it is taken for HTML."""
        other = result(0.5)
        other["environment"]["hosts"][0].update(cores=96, cpu="Y & <Z>")
        other["environment"]["commit"] = "4711"
        told = self.compare(result(), other, "--html", self.path("p.html"))
        self.assertIn("hosts: A 1 x 8 cores, X, B 1 x 96 cores, Y & <Z>", told)
        self.assertIn("commit: A has none, B 4711", told)
        words = self.page()
        for said in ("B's median weight_sync is 0.5 times A's", "96 cores, Y & <Z>", "refit run <case>"):
            self.assertIn(said, words)
        self.assertIn("exists; give another name or --force", self.compare(result(), other, "--html", self.path("p.html"), code=2))
        self.compare(result(), other, "--html", self.path("p.html"), "--force")
        self.assertIn("No such file", self.compare(result(), other, "--html", self.path("no/p.html"), code=2))

    def test_cases_are_matched(self):
        """Of sweeps by their values, of matrices by their names, in any order; what has no partner is named."""
        a = sweep(p2p=result(), direct=result(executor="direct"), golden=result(executor="golden"))
        b = sweep(direct=result(1.3, executor="direct"), p2p=result(), m2n=result(executor="m2n"))
        told = self.compare(a, b, "--html", self.path("p.html"))
        self.assertIn("executor=p2p 12 12 1 0.500 0.500 within noise", told)
        self.assertIn("executor=direct 12 15.6 1.3 0.500 0.385 slower", told)
        self.assertIn("only in A: executor=golden only in B: executor=m2n", told)
        self.assertIn("Only in A: executor=golden.", self.page())
        matrices = [{"schema": "refit.matrix", "schema_version": 1, "cases": cases} for cases in (
            [{"name": "x", "result": result()}, {"name": "y", "result": {}}],
            [{"name": "y", "result": result()}, {"name": "x", "result": result(0.5)}])]  # fmt: skip
        told = self.compare(*matrices)
        self.assertIn("x 12 6 0.5 0.500 1.000 faster", told)
        self.assertIn("y - 12 - - 0.500 not measured (A not run, B passed)", told)
        self.assertIn("have no case in common", self.compare(sweep(p2p=result()), sweep(m2n=result()), code=2))

    def test_probes(self):
        """A probe of half the rate: the ratios, and no word of better or worse, as each is measured once."""

        def probe(scale):
            matrix = {"direction": "one_way", "mechanism": "stores", "alone": False, "min": scale * 1e9, "mean": scale * 2e9}
            size = {"pair": "slowest", "mechanism": "messages", "bytes": 4096, "seconds": 1e-6 / scale, "bytes_per_second": scale * 4e9}
            return {"schema": "refit.probe", "schema_version": 1, "status": "passed", "ranks": 2, "settings": {"device": "cpu"},
                    "matrices": [matrix], "sizes": [size], "rates": {"memory": scale * 3e9}, "latency_seconds": 2e-6}  # fmt: skip

        told = self.compare(probe(1.0), probe(0.5), "--html", self.path("p.html"))
        for said in ("one way, stores, all at once min (GB/s) 1 0.5 0.5", "4096 B, back to back (GB/s) 4 2 0.5",
                     "4096 B, one alone (us) 1 2 2", "memory (GB/s) 3 1.5 0.5", "latency (us) 2 2 1", "measured once: "):  # fmt: skip
            self.assertIn(said, told)
        self.assertIn("measured once", self.page())

    def test_bad_files(self):
        self.assertIn("give two files of one kind", self.compare(result(), sweep(p2p=result()), code=2))
        for content, said in (
            ("", "no JSON"), ("[" * 100_000, "no JSON"), ("[]", "its schema is null"), ('{"schema": ["refit.result"]}', "its schema is"),
            ('{"schema": "refit.result", "schema_version": 7}', "version 7"), (sweep(), "nothing has run"),
        ):  # fmt: skip
            self.assertIn(said, self.compare(result(), content, code=2))
        command = [sys.executable, os.path.join(ROOT, "scripts", "compare.py"), self.path("none"), self.folder]
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 2)

    def test_odd_values(self):
        """Integers that no float has, halves of characters, what a terminal would obey; and no page in place of a result."""
        odd = result(executor="\ud800\x1b[31m")
        odd["weight_sync"]["samples"].append(10**400)
        odd["rates"] = {"memory": 10**400, "pair": 10**308}
        for a, b in ((odd, odd), (odd, result())):
            said = self.compare(a, b, "--html", self.path("p.html"), "--force")
            self.assertNotIn("\x1b", said)
            self.page()
        self.assertIn(r"A \ud800\x1b[31m, B p2p", said)
        self.assertIn("which is compared", self.compare(result(), result(), "--html", self.path("b.json"), "--force", code=2))

    def test_full_disk(self):
        file = self.write("a.json", result())
        with open("/dev/full", "w", encoding="utf-8") as full:
            command = [sys.executable, os.path.join(ROOT, "scripts", "compare.py"), file, file]
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual((ended.returncode, ended.stderr.count("\n")), (2, 1), ended.stderr)
        self.assertIn("cannot write to stdout: No space left", ended.stderr)

    def test_parts_of_a_wrong_type(self):
        """Whatever stands in a part, it counts as not there."""
        sys.path.insert(0, os.path.join(ROOT, "scripts"))
        from refit_compare import differences, documents, page, terminal

        whole = documents.read(self.write("b.json", result()))
        for key in sorted(result().keys() - {"schema", "schema_version"}):
            for odd in (None, [[1]], {"a": None}, "x", -1.5):
                one = documents.read(self.write("a.json", {**result(), key: odd}))
                found = differences.pairs(one, whole)
                self.assertGreater(len(list(terminal.write(one, whole, *found))), 3, f"{key}: {odd}")
                page.write(self.path("p.html"), True, one, whole, *found)
                self.page()


if __name__ == "__main__":
    at = sys.argv.index("--root")
    ROOT = os.path.abspath(sys.argv[at + 1])
    del sys.argv[at : at + 2]
    unittest.main()
