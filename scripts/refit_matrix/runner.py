"""Runs one case of a matrix: how many ranks it needs, whether the machine has them, the job, and how it ended.

Everything of a case lies in OUTPUT/cases/NAME: log.txt (all that was printed), result.json and result.h5 (refit's own results),
plan.json, picture.svg if this refit draws one, and outcome.json, which is written last: a case with one is finished.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from dataclasses import asdict, dataclass, field

from . import job

GOOD = ("passed", "waived")
STATUSES = {0: "passed", 1: "failed", 77: "waived"}  # of refit's exit codes; anything else is an error
TOO_FEW_SLOTS = (
    "not enough slots available", "More processors requested than permitted", "Requested node configuration is not available"
)  # fmt: skip
PLAN_SECONDS = 300
HELP_SECONDS = 20
MEASURED = ("weight_sync", "bound", "efficiency", "payload", "wire", "memory", "phases")


@dataclass
class Outcome:
    """How one case ended, and what refit reported."""

    name: str
    file: str
    options: list
    signature: str = ""  # of the case as it was run: --resume takes an outcome only for the same one
    status: str = "error"  # passed | failed | error | timeout | waived
    reason: str = ""
    ranks: int = 0
    exit_code: int | None = None
    seconds: float = 0.0
    command: str = ""
    layout: str = ""  # what runs: "PP2xDP2xEP2 -> TP4"; empty where it could not be planned
    base: str = ""  # of the case, as in matrix_file.Case
    variant: str = ""
    result: dict = field(default_factory=dict)  # refit.result; {} if the case did not get that far
    byte_matrix: list = field(default_factory=list)  # [train rank][gen rank], as planned
    baseline: dict = field(default_factory=dict)  # baseline.compare's answer; {} without a baseline

    @property
    def measured(self):
        """Did it come to refits with all their figures? A case that is meant to end in an error does not."""
        return all(part in self.result for part in MEASURED) and "median" in self.result["weight_sync"]

    @property
    def title(self):
        """The name, and the layout that runs: a small case is named after the large one that it stands for."""
        return f"{self.name} ({self.layout})" if self.layout else self.name

    @property
    def good(self):
        return self.status in GOOD and self.baseline.get("verdict") != "worse"


@dataclass(frozen=True)
class Runner:
    refit: str
    launcher: tuple  # words; {ranks} stands for the number of ranks
    slots: int  # cases with more ranks are waived
    output: str
    timeout_seconds: float
    pictures: bool  # this refit has plan --picture

    def folder(self, case):
        return os.path.join(self.output, "cases", case.name)

    def stored(self, case):
        """The outcome of an earlier run of the same case; None if there is none."""
        folder = self.folder(case)
        document = load(os.path.join(folder, "outcome.json"))
        if document.get("signature") != signature(case):
            return None
        return Outcome(**document, result=load(os.path.join(folder, "result.json")), byte_matrix=_byte_matrix(folder))

    def run(self, case):
        """Runs the case to its end and stores the outcome."""
        folder = self.folder(case)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        outcome = Outcome(
            case.name, case.file, list(case.options), signature(case), base=case.base, variant=case.variant
        )
        if self._plan(case, folder, outcome):
            self._run(case, folder, outcome)
        outcome.result = load(os.path.join(folder, "result.json"))
        document = {
            key: value for key, value in asdict(outcome).items() if key not in ("result", "byte_matrix", "baseline")
        }
        store(os.path.join(folder, "outcome.json"), document)
        return outcome

    def _plan(self, case, folder, outcome):
        """Asks `refit plan` for the number of ranks; false if the case is over already."""
        log, file = os.path.join(folder, "log.txt"), os.path.join(folder, "plan.json")
        command = [self.refit, "plan", case.file, *case.options]
        outcome.command = shlex.join(command)
        ended = self._job([*command, "--json", file, "--force"], log, PLAN_SECONDS)
        outcome.exit_code, outcome.seconds = ended.code, ended.seconds
        if ended.timed_out or ended.code == 77:
            outcome.status = "timeout" if ended.timed_out else "waived"
            outcome.reason = last_words(log)
            return False
        plan = load(file)
        # A case that cannot be planned may be meant to end so: one rank is enough for refit to tell.
        outcome.ranks = plan["ranks"] if plan else 1
        if plan:
            outcome.layout = f"{plan['train']['layout']} -> {plan['gen']['layout']}"
        outcome.byte_matrix = _byte_matrix(folder)
        if outcome.ranks > self.slots:
            outcome.status = "waived"
            outcome.reason = f"needs {outcome.ranks} ranks, and there are {self.slots} slots (--slots)"
            return False
        if plan and self.pictures:
            self._job([*command, "--picture", os.path.join(folder, "picture.svg")], os.devnull, PLAN_SECONDS)
        return True

    def _run(self, case, folder, outcome):
        log = os.path.join(folder, "log.txt")
        launch = [word.replace("{ranks}", str(outcome.ranks)) for word in self.launcher]
        command = [*launch, self.refit, "run", case.file, *case.options]
        outcome.command = shlex.join(command)
        outputs = ["--json", os.path.join(folder, "result.json"), "--hdf5", os.path.join(folder, "result.h5")]
        os.truncate(log, 0)  # what planning said is said again
        ended = self._job([*command, *outputs, "--force"], log, self.timeout_seconds)
        outcome.exit_code, outcome.seconds = ended.code, ended.seconds
        result = load(os.path.join(folder, "result.json"))
        outcome.status = STATUSES.get(ended.code, "error")
        if ended.timed_out:
            outcome.status, outcome.reason = (
                "timeout",
                f"ended after the matrix's {self.timeout_seconds:g} s; last printed: {last_words(log)}",
            )
        elif outcome.status == "passed" and result.get("status") != "passed":
            outcome.status, outcome.reason = "error", "exit code 0, but no result.json that says so"
        elif not result and any(words in _text(log) for words in TOO_FEW_SLOTS):
            outcome.status, outcome.reason = "waived", f"the launcher has no {outcome.ranks} slots"
        elif outcome.status == "failed" and not result:
            # Launchers end with 1, too: of wrong data refit writes a result.
            outcome.status, outcome.reason = "error", f"exit code 1 without a result.json: {last_words(log)}"
        elif outcome.status != "passed":
            outcome.reason = result.get("error", {}).get("message") or last_words(log)
        elif "error" in result:
            outcome.reason = f"as expected: {result['error'].get('message', '')}"

    def _job(self, command, log, seconds):
        environment = {"HWLOC_COMPONENTS": "-gl", **os.environ}  # hwloc would look for an X server, in every rank
        return job.run(command, log, seconds, environment)


def draws_pictures(refit, seconds=HELP_SECONDS):
    """Does this refit have `plan --picture`? OSError: it cannot be started."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "help.txt")
        if job.run([refit, "plan", "--help"], log, seconds).timed_out:
            raise TimeoutError(0, f"`plan --help` did not end within {seconds} s")
        return "--picture" in _text(log)


def signature(case):
    """Of what is run: the case file's text and the options."""
    with open(case.file, "rb") as file:
        return hashlib.sha256(file.read() + json.dumps(case.options).encode()).hexdigest()


def load(file):
    """The JSON object of a regular file; {} if there is none."""
    try:
        if not os.path.isfile(file):
            return {}
        with open(file, encoding="utf-8") as stream:
            document = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def store(file, document):
    write(file, json.dumps(document, indent=1, allow_nan=False) + "\n")


def write(file, text):
    """Writes a whole file or nothing: a reader never sees a part."""
    with whole(file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)


@contextlib.contextmanager
def whole(file):
    """The name under which a file is made: it becomes `file` if the block comes to its end, else it is removed."""
    temporary = f"{file}.part"
    try:
        yield temporary
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def last_words(log):
    """The line of a log that says most about a failure: refit's own verdict or error, else the last one."""
    lines = [line.strip() for line in _text(log).splitlines() if line.strip()]
    for pattern in (r"(?:FAILED|WAIVED): (.+)", r"refit: error: (.+)", r"refit: (rank \d+: .+)"):
        for line in reversed(lines):
            if match := re.match(pattern, line):
                return match.group(1)
    return lines[-1] if lines else "nothing was printed"


def tail(log, lines=40):
    """The last lines of a log."""
    return "\n".join(_text(log).splitlines()[-lines:])


def _byte_matrix(folder):
    plan = load(os.path.join(folder, "plan.json"))
    return plan.get("plan", {}).get("world", {}).get("byte_matrix", [])


def _text(log):
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
