"""`refit run --sweep`: each combination is the run that it is by itself, and what goes wrong with one stays its own.

    run_sweep.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

SMALL = ("--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP2", "--steps", 2, "--warmup", 0, "--force")


def values_of(sweep):
    return [(one["values"], one["result"]["status"]) for one in sweep["combinations"]]


def the_same_as_runs(suite):
    """The product in order, with one rank asleep where gen has one; each result but for its times as `refit run` has it alone."""
    ended = suite.run(
        4, "run", *SMALL, "--sweep", "executor=p2p,direct", "--sweep", "gen=TP2,TP1", "--json", "sweep.json",
        "--csv", "sweep.csv", "--junit", "sweep.xml",
    )  # fmt: skip
    suite.check_code(ended, 0, "a sweep")
    sweep = suite.result("sweep.json", ended)
    wanted = [{"executor": executor, "gen": gen} for executor in ("p2p", "direct") for gen in ("TP2", "TP1")]
    suite.check(values_of(sweep) == [(values, "passed") for values in wanted], f"{values_of(sweep)}", ended)
    suite.check((sweep["status"], sweep["planned"], sweep["keys"], sweep["ranks"]) == ("passed", 4, ["executor", "gen"], 4), "head")
    for one in sweep["combinations"]:
        ranks = 4 if one["values"]["gen"] == "TP2" else 3
        alone = suite.run(ranks, "run", *SMALL, "--json", "alone.json", "--executor", one["values"]["executor"],
                          "--gen", one["values"]["gen"])  # fmt: skip
        found, expected = one["result"], suite.result("alone.json", alone)
        suite.check(set(found) == set(expected), f"{one['values']}: {set(found) ^ set(expected)}", alone)
        for part in ("ranks", "model", "train", "gen", "settings", "payload", "wire", "memory", "versions", "verification"):
            suite.check(found[part] == expected[part], f"{one['values']}: {part}: {found[part]}, alone {expected[part]}")
        suite.check(len(found["weight_sync"]["samples"]) == 2, f"{found['weight_sync']}")
    labels = [f"executor={values['executor']} gen={values['gen']}" for values in wanted]
    with open(suite.path("sweep.csv"), newline="", encoding="utf-8") as file:
        suite.check([row["sweep"] for row in csv.DictReader(file)] == [one for one in labels for _ in range(2)], "rows of the CSV")
    cases = ET.parse(suite.path("sweep.xml")).getroot().iter("testcase")
    suite.check([case.get("name") for case in cases] == [f"command line {one}" for one in labels], "JUnit's test cases")
    rows = [line.split() for line in ended.out.splitlines() if line.startswith("  ")]
    suite.check([row[:3] for row in rows] == [[v["executor"], v["gen"], "4" if v["gen"] == "TP2" else "3"] for v in wanted], "table", ended)


def wrong_data_goes_on(suite):
    """A combination that is wrong does not end the sweep; one that this build lacks is waived."""
    ended = suite.run(4, "run", *SMALL, "--gen", "TP2", "--sweep", 'run.inject=lost-update,[],["stale-refit"]', "--json", "wrong.json")
    suite.check_code(ended, 1, "wrong data")
    sweep = suite.result("wrong.json", ended)
    statuses = [(values["run.inject"], status) for values, status in values_of(sweep)]
    suite.check(statuses == [("lost-update", "failed"), ("[]", "passed"), ('["stale-refit"]', "failed")], f"{statuses}", ended)
    suite.check(sweep["error"]["message"].startswith("run.inject=lost-update: "), f"{sweep['error']}")


def a_timeout_ends_it(suite):
    """With the results until then. The others wait for those in the bulk path, not for the rank that sleeps."""
    ended = suite.run(
        4, "run", *SMALL, "--executor", "p2p", "--timeout", 2, "--sweep", "gen=TP1,TP2", "--sweep", "run.inject=[],skip-send",
        "--json", "late.json", "--junit", "late.xml",
    )  # fmt: skip
    suite.check_code(ended, 3, "a timeout")
    sweep = suite.result("late.json", ended)
    suite.check([status for _, status in values_of(sweep)] == ["passed", "error"], f"{values_of(sweep)}", ended)
    suite.check(sweep["error"]["kind"] == "timeout" and sweep["error"]["rank"] in (1, 2), f"{sweep['error']}", ended)
    suite.check(sweep["planned"] == 4 and sweep["exit_code"] == 3, "head")


def mistakes(suite):
    """All are found before anything runs, and name the combination; an older result is taken away."""
    for arguments, said in (
        (("--sweep", "gen=TP2,TP3x"), 'gen=TP3x: --sweep gen: gen.layout "TP3x"'),
        (("--sweep", "gen=TP2,TP3"), "gen=TP3: "),
        (("--sweep", "gen=TP2,TP8"), "this sweep needs 10 ranks, for gen=TP8"),
        (("--sweep", "gen=TP1"), "this sweep needs 3 ranks, for gen=TP1"),
        (("--gen", "TP2", "--sweep", "run.inject=lost-update,none"), 'run.inject=none: --sweep run.inject: run.inject: unknown name "none"'),
        (("--gen", "TP2", "--sweep", "run.inject=lost-update,stale-derived"), "stale-derived changes nothing in this case"),
        (("--gen", "TP2", "--sweep", "exectuor=p2p"), "did you mean executor?"),
        (("--gen", "TP2", "--sweep", "executor"), "needs KEY=VALUE,VALUE"),
        (("--gen", "TP2", "--sweep", "executor=p2p,,direct"), "a value is empty"),
        (("--gen", "TP2", "--sweep", "executor=p2p,p2p"), "p2p is there twice"),
        (("--gen", "TP2", "--sweep", "executor=p2p", "--executor", "direct"), "is given twice"),
        (("--gen", "TP2", "--sweep", "executor=p2p", "--sweep", "executor=direct"), "list all values in one"),
        (("--gen", "TP2", "--sweep", "json=a,b"), "a sweep has one output.json"),
        (("--gen", "TP2", "--sweep", "executor=p2p", "--dump-gen", "dumps"), "--dump-gen: means nothing for a sweep"),
        (("--sweep", f"run.seed={','.join(map(str, range(1001)))}"), "more than 1000 combinations"),
    ):
        with open(suite.path("older.json"), "w", encoding="utf-8") as file:
            file.write('{"status": "passed"}')
        ended = suite.run(0, "run", *SMALL, *arguments, "--json", "older.json")
        suite.check(ended.code == 2 and said in ended.err, f"{arguments[-1][:40]}: not {said!r}", ended)
        if said.startswith(("gen=", "run.inject=")) or said.startswith("this sweep"):
            suite.check(suite.result("older.json").get("status") == "error", f"{arguments}: an older result", ended)


def outputs_of_a_case_file(suite):
    """Those that hold one case alone are left out."""
    with open(suite.path("outputs.toml"), "w", encoding="utf-8") as file:
        file.write('output.dump_gen = "dumps"\noutput.trace = "trace.json"\noutput.hdf5 = "result.h5"\n')
    ended = suite.run(4, "run", "outputs.toml", *SMALL, "--gen", "TP2", "--sweep", "executor=p2p,direct")
    suite.check_code(ended, 0, "a case file with outputs")
    written = [name for name in ("dumps", "trace.json", "result.h5") if os.path.exists(suite.path(name))]
    suite.check(not written, f"{written} were written", ended)


def values_with_commas(suite):
    """Commas in quotes and brackets belong to a value; P:Q is a precision of each side."""
    ended = suite.run(4, "run", *SMALL[:-1], "--force", "--gen", "TP2", "--sweep", 'run.inject=["lost-update","stale-refit"],[]',
                      "--sweep", "precision=bf16,fp32:bf16", "--json", "commas.json")  # fmt: skip
    suite.check_code(ended, 1, "values with commas")
    sweep = suite.result("commas.json", ended)
    found = [(one["values"]["run.inject"], one["result"]["train"]["precision"]) for one in sweep["combinations"]]
    both = '["lost-update","stale-refit"]'
    suite.check(found == [(both, "bf16"), (both, "fp32"), ("[]", "bf16"), ("[]", "fp32")], f"{found}", ended)


def memory_is_given_back(suite):
    """What a process holds does not grow with the combinations that it has run: pieces of up to 32 MiB, which glibc would keep."""
    program = ("import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")  # fmt: skip
    most = []
    for seeds in (3, 24):
        command = [sys.executable, "-c", program, suite.args.refit, "run", "--model", "qwen3-0.6b-small", "--colocated", "--train",
                   "TP1", "--gen", "TP1", "--steps", "1", "--sweep", f"run.seed={','.join(map(str, range(seeds)))}"]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, cwd=suite.path("."))
        suite.check(ended.returncode == 0, f"{seeds} seeds: {ended.stdout}{ended.stderr}")
        most.append(int(ended.stdout.split()[-1]) / 1024)
    suite.check(most[1] < most[0] + 60, f"of 24 combinations {most[1]:.0f} MiB, of 3 {most[0]:.0f} MiB")


Suite(__doc__).main(the_same_as_runs, wrong_data_goes_on, a_timeout_ends_it, mistakes, outputs_of_a_case_file, values_with_commas,
                    memory_is_given_back)
