"""refit.read_result on what a run writes, against the CSV of the same run.

result_test.py REFIT WORK: the executable, and a folder to work in.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import unittest

import refit
import world

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from launcher import mpirun  # noqa: E402

REFIT = WORK = None


class Results(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        os.makedirs(WORK, exist_ok=True)
        options = ["--model", "qwen3-0.6b-small", "--layers", "1", "--train", "TP1", "--gen", "TP1", "--steps", "3", "--warmup", "2"]
        outputs = ["--json", f"{WORK}/result.json", "--csv", f"{WORK}/result.csv", "--force"]
        environment = {**os.environ, "REFIT_INPUTS": str(world.ROOT / "inputs")}
        subprocess.run([*mpirun(2), REFIT, "run", *options, *outputs], check=True, capture_output=True, env=environment)

    def write(self, text):
        path = pathlib.Path(WORK) / "other.json"
        path.write_bytes(text)
        return path

    def rows(self):
        found = refit.read_result(f"{WORK}/result.json")
        return found if isinstance(found, list) else found.to_dict("records")

    def test_it_has_what_the_csv_has(self):
        with open(f"{WORK}/result.csv", newline="") as file:
            expected = [row for row in csv.DictReader(file) if row["refit"] == "1" or row["warmup"] == "0"]
        found = self.rows()
        self.assertEqual([row["refit"] for row in found], [1, 3, 4, 5])
        common = set(expected[0]) & set(found[0])
        self.assertEqual(set(found[0]) - common, {"status", "bound_seconds"})
        for row, other in zip(found, expected, strict=True):
            for key in common:
                value = other[key]
                if isinstance(row[key], bool):
                    self.assertEqual(row[key], value == "1", key)
                elif isinstance(row[key], (int, float)):
                    self.assertAlmostEqual(row[key] / float(value) if float(value) else row[key], 1 if float(value) else 0, 5, key)
                else:
                    self.assertEqual(row[key] or "", value, key)

    def test_a_run_without_refits(self):
        result = json.loads(pathlib.Path(f"{WORK}/result.json").read_text())
        for key in ("weight_sync", "bound", "payload", "wire"):
            del result[key]
        self.assertEqual(len(refit.read_result(self.write(json.dumps(result).encode()))), 0)

    def test_what_is_no_result(self):
        for text, words in [
            (b"refit 1 2.0\n", "no JSON"),
            (b"\xff\xfe\x00", "no JSON"),
            (b"[" * 100000, "no JSON"),
            (b"[1]", "no schema"),
            (b"{}", "no schema"),
            (b'{"schema": "refit.plan"}', "refit.plan"),
            (b'{"schema": "refit.result", "schema_version": 2}', "version 2"),
        ]:
            with self.subTest(text[:30]), self.assertRaises(refit.UsageError) as caught:
                refit.read_result(self.write(text))
            self.assertIn(words, str(caught.exception))
            self.assertIn("other.json", str(caught.exception))
        with self.assertRaises(FileNotFoundError):
            refit.read_result(f"{WORK}/nowhere.json")


if __name__ == "__main__":
    REFIT, WORK = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
