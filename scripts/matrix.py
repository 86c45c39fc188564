#!/usr/bin/env python3
"""Runs a list of cases, each as a job of its own, and reports them together: JUnit XML, JSON, CSV, HDF5 and one page.

    scripts/matrix.py inputs/matrix/l0.toml
    scripts/matrix.py inputs/matrix/fp8.toml --only '*-direct' --launcher "srun --mpi=pmix --kill-on-bad-exit=1 -n {ranks}" -- --steps 5

Needs Python 3.11 and nothing else; with h5py the cases' HDF5 files come as one, too. The form of a matrix file stands in
scripts/refit_matrix/matrix_file.py. Nothing is tried twice, and a case that fails does not end the matrix. What the machine lacks
(a GPU, slots) is waived, with the reason. Under GitHub's CI ($GITHUB_STEP_SUMMARY, $GITHUB_ACTIONS) a summary and ::error:: lines
are written, too. Exit code: 0 all passed or were waived, 1 not so, or more waived than --max-waived, 2 a mistake in the matrix file
or the command line, 77 all were waived, 128 + the signal when interrupted.
"""

import argparse
import datetime
import fnmatch
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time

if sys.version_info < (3, 11):
    sys.exit("error: scripts/matrix.py needs Python 3.11 or later")

from refit_matrix import baseline, matrix_file, outputs, page, runner  # noqa: E402

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
FEWEST_SLOTS = 8  # what the matrices need, and what two cores can do


class Interrupted(Exception):
    """SIGINT or SIGTERM."""


def main():
    args, extra = parse(sys.argv[1:])
    try:
        matrix = matrix_file.read(args.matrix, args.full, extra)
        cases = chosen(matrix, args.only)
        output = os.path.abspath(args.output or os.path.join("build", "matrix", matrix.name))
        run = runner.Runner(
            args.refit, launcher_of(args), slots_of(args), output, args.timeout or matrix.timeout_seconds,
            pictures_of(args)
        )  # fmt: skip
        kept = baseline.read(args.baseline) if args.baseline else None
        if args.save_baseline:
            baseline.check_place(args.save_baseline)
        prepare(args, output)
    except (matrix_file.Mistake, ValueError) as mistake:
        for line in str(mistake).splitlines():
            say(f"error: {line}")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    report = Report(matrix, output, kept, about(args))
    code = 0
    try:
        run_all(run, cases, args.resume, report)
    except Interrupted as reason:
        code = 128 + reason.args[0]
        say(f"\ninterrupted by {signal.Signals(reason.args[0]).name}: --resume goes on from here")
    report.end(len(cases))
    if args.save_baseline and code == 0:
        others = [case.name for case in matrix.cases if case not in cases]
        baseline.save(args.save_baseline, matrix.name, report.outcomes, others)
        say(f"baseline: {args.save_baseline}")
    return code or verdict(report.outcomes, args.max_waived)


def verdict(outcomes, max_waived):
    """The exit code of cases that all came to their end."""
    waived = sum(outcome.status == "waived" for outcome in outcomes)
    if not all(outcome.good for outcome in outcomes):
        return 1
    if max_waived is not None and waived > max_waived:
        print(f"error: {waived} cases were waived, more than --max-waived {max_waived}", flush=True)
        return 1
    if waived == len(outcomes):
        print("nothing ran: all cases were waived", flush=True)
        return 77
    return 0


def parse(words):
    """(arguments, the options after `--`)"""
    extra = ()
    if "--" in words:
        extra, words = tuple(words[words.index("--") + 1 :]), words[: words.index("--")]
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Options after -- go to `refit run`, for every case: -- --steps 5",
    )
    parser.add_argument("matrix", metavar="MATRIX.toml")
    parser.add_argument("--launcher", metavar="COMMAND", help='how ranks are started (default: mpirun as this machine needs it); '
                        'e.g. "mpirun --oversubscribe -np {ranks}"')  # fmt: skip
    parser.add_argument("--slots", type=positive, metavar="N", help="ranks that the machine takes; cases with more are waived "
                        f"(default: $SLURM_NTASKS, else the cores, but at least {FEWEST_SLOTS})")  # fmt: skip
    parser.add_argument("--output", metavar="DIR", help="folder for the results (default: build/matrix/NAME)")
    parser.add_argument("--resume", action="store_true", help="keep the cases that a former run into DIR finished")
    parser.add_argument("--force", action="store_true", help="replace the results of a former run into DIR")
    parser.add_argument("--full", action="store_true", help="run the real size where the matrix names one")
    parser.add_argument("--only", metavar="GLOB", action="append", help="only cases whose name matches; repeatable")
    parser.add_argument("--timeout", type=positive, metavar="SECONDS", help="of one case, instead of the matrix's")
    parser.add_argument("--baseline", metavar="FILE", help="compare with it: a case that is worse fails, one "
                        "that is slower is warned of")  # fmt: skip
    parser.add_argument("--save-baseline", metavar="FILE", help="write the passed cases as a baseline; those that "
                        "--only leaves out keep what they have there")  # fmt: skip
    parser.add_argument("--max-waived", type=natural, metavar="N", help="fail where more cases than that are waived (default: "
                        "all may be; where all are, the exit code is 77)")  # fmt: skip
    parser.add_argument("--refit", metavar="EXE", default=os.path.relpath(os.path.join(ROOT, "build", "cpu", "bin", "refit")),
                        help="default: build/cpu/bin/refit")  # fmt: skip
    return parser.parse_args(words), extra


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0 is expected")
    return value


def natural(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: 0 or a number above it is expected")
    return value


def chosen(matrix, only):
    cases = [case for case in matrix.cases if not only or any(fnmatch.fnmatchcase(case.name, glob) for glob in only)]
    if not cases:
        raise matrix_file.Mistake(
            f"no case matches {' '.join(only)}; there are: {' '.join(c.name for c in matrix.cases)}"
        )
    return cases


def launcher_of(args):
    """The words of the launcher, checked."""
    launcher = tuple(shlex.split(args.launcher) if args.launcher else mpirun())
    if not any("{ranks}" in word for word in launcher):
        raise matrix_file.Mistake(f"--launcher {args.launcher!r}: it has to say {{ranks}}, e.g. mpirun -np {{ranks}}")
    if shutil.which(launcher[0]) is None:
        raise matrix_file.Mistake(f"{launcher[0]}: no such command; install it, or give another --launcher")
    return launcher


def mpirun():
    """mpirun on this machine, with more ranks than cores; options of Open MPI only for it."""
    words = ["mpirun", "-np", "{ranks}"]
    if shutil.which("mpirun") is not None:
        version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
        if "Open MPI" in version:
            words += ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
            words += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return words


def slots_of(args):
    stated = os.environ.get("SLURM_NTASKS", "")
    if args.slots:
        return args.slots
    return int(stated) if stated.isdecimal() else max(FEWEST_SLOTS, len(os.sched_getaffinity(0)))


def pictures_of(args):
    try:
        return runner.draws_pictures(args.refit)
    except OSError as error:
        raise matrix_file.Mistake(f"{args.refit}: {error.strerror}; build it, or name another with --refit") from None


def prepare(args, output):
    """The output folder: no results of a former run are lost by mistake."""
    try:
        if os.path.exists(os.path.join(output, "matrix.json")) and not args.resume:
            if not args.force:
                raise matrix_file.Mistake(
                    f"{output} holds the results of a former run: --resume to go on, --force to replace"
                )
            shutil.rmtree(os.path.join(output, "cases"), ignore_errors=True)
        os.makedirs(os.path.join(output, "cases"), exist_ok=True)
    except OSError as error:
        raise matrix_file.Mistake(f"--output {output}: {error.strerror}") from None


def interrupt(number, _):
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # once is enough: the job's end and the results take a few seconds
    raise Interrupted(number)


def about(args):
    """What the results say about this run."""
    return {
        "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "start_time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "baseline": args.baseline or "",
    }


class Report:
    """The outcomes so far. All but HDF5 is written after each case, so that nothing is lost when this process is killed."""

    def __init__(self, matrix, output, kept, info):
        self.matrix, self.output, self.kept, self.info = matrix, output, kept, info
        self.outcomes = []

    def path(self, name):
        return os.path.join(self.output, name)

    def add(self, outcome):
        if self.kept is not None:
            outcome.baseline = baseline.compare(self.kept, outcome)
        self.outcomes.append(outcome)

    def write(self):
        outputs.write_json(self.path("matrix.json"), self.matrix, self.info, self.outcomes)
        outputs.write_junit(self.path("matrix.xml"), self.matrix, self.info, self.outcomes, self.path("cases"))
        outputs.write_csv(self.path("matrix.csv"), self.outcomes)
        page.write_page(self.path("index.html"), self.matrix, self.info, self.outcomes, self.path("cases"))

    def end(self, planned):
        self.write()
        if not outputs.write_hdf5(
            self.path("matrix.h5"), {o.name: self.path(f"cases/{o.name}") for o in self.outcomes}
        ):
            say("matrix.h5: not written, there is no h5py; each case has its own cases/NAME/result.h5")
        found = outputs.counts(self.outcomes)
        words = ", ".join(f"{number} {status}" for status, number in found.items() if number > 0) or "none finished"
        print(f"{self.matrix.name}: {len(self.outcomes)} of {planned} cases: {words}")
        for outcome in self.outcomes:
            compared = outcome.baseline.get("verdict", "")
            if not outcome.good or outcome.status == "waived" or compared == "slower":
                why = outcome.reason or "; ".join(outcome.baseline["differences"])
                word = compared if outcome.status == "passed" else outcome.status
                print(f"  {word:8} {outcome.title}: {short(why)}")
        apart = [outcome for outcome in self.outcomes if outcome.baseline.get("verdict") in ("new", "other settings")]
        if apart:
            why = "; ".join(apart[0].baseline["differences"])
            print(f"not compared with the baseline: {len(apart)}; {apart[0].name}: {short(why)}")
        print(f"page: {self.path('index.html')}", flush=True)
        self.tell_github()

    def tell_github(self):
        summary = os.environ.get("GITHUB_STEP_SUMMARY", "")
        if summary:
            try:
                outputs.append_step_summary(summary, self.matrix, self.outcomes)
            except OSError as error:
                say(f"$GITHUB_STEP_SUMMARY {summary}: {error.strerror}")
        if summary or os.environ.get("GITHUB_ACTIONS", ""):
            for line in outputs.annotations(self.outcomes):
                print(line, flush=True)


def run_all(run, cases, resume, report):
    """Every case in turn, with one line of progress each."""
    seconds = []  # of the cases that ran now
    for number, case in enumerate(cases, 1):
        outcome = run.stored(case) if resume else None
        say(f"[{number:{len(str(len(cases)))}}/{len(cases)}] {case.name} ... ", end="")
        if outcome is not None:
            say(f"{outcome.status}, kept")
        else:
            begin = time.monotonic()
            outcome = run.run(case)
            seconds.append(time.monotonic() - begin)
            say(f"{words_of(outcome)}; {left(seconds, len(cases) - number)}")
        report.add(outcome)
        report.write()


def words_of(outcome):
    words = f"{outcome.status}, {outcome.ranks} ranks, {outcome.seconds:.1f} s"
    words += f", {outcome.layout}" if outcome.layout else ""
    if outcome.measured:
        words += f", weight_sync {1000 * outcome.result['weight_sync']['median']:.1f} ms"
    return words + (f" ({short(outcome.reason)})" if outcome.reason else "")


def short(reason):
    """On one line."""
    words = " ".join(reason.split())
    return words if len(words) <= 160 else f"{words[:157]}..."


def left(seconds, cases):
    """How long the rest takes, as the cases so far did."""
    rest = round(sum(seconds) / len(seconds) * cases)
    return f"{cases} left, about {rest // 60} min {rest % 60:02} s" if cases else "the last"


def say(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
