"""What the tests on several hosts share: a job whose phases a test steps through, and what the plan says of its links.

Their arguments: --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER --pause-tool libpause_tool.so [--only PART]
"""

import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import hosts  # noqa: E402
from job import LIMIT_SECONDS, Suite  # noqa: E402


class HostSuite(Suite):
    """Construct it before anything else: the program goes on in namespaces of its own."""

    probing = ()  # as users' runs: links are what these tests are about

    def __init__(self, description):
        hosts.isolate()
        os.environ.setdefault("HWLOC_COMPONENTS", "-gl")
        super().__init__(description)
        self.tool = os.path.abspath(self.rest[self.rest.index("--pause-tool") + 1])
        os.chdir(self.work)

    def hosts(self, count):
        return hosts.Hosts(count, [self.work, self.args.refit, self.tool])

    def start_paused(self, launcher, phases, *arguments):
        """A job whose rank 0 waits for `Paused` at the begin of each of the phases."""
        folder = self.path("pauses")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        settings = {"KOKKOS_PROFILE_LIBRARY": self.tool, "KOKKOS_TOOLS_LIBS": self.tool, "REFIT_PAUSE": ",".join(phases),
                    "REFIT_PAUSE_FOLDER": folder}  # fmt: skip
        os.environ.update(settings)
        try:
            return Paused(self.start_with(launcher, *arguments), folder)
        finally:
            for name in settings:
                del os.environ[name]

    def crossing(self, place, *arguments):
        """Bytes that the plan sends from each host and to each, by the table of bytes from rank to rank; `place`: each rank's
        host."""
        ended = self.run(0, "plan", *arguments, "--byte-matrix", "matrix.txt", "--force")
        self.check_code(ended, 0, "plan")
        with open(self.path("matrix.txt"), encoding="utf-8") as file:
            rows = [list(map(int, line.split())) for line in file if line.strip()]
        sent, received = dict.fromkeys(place, 0), dict.fromkeys(place, 0)
        for source, row in enumerate(rows):
            for destination, count in enumerate(row):
                if place[source] != place[destination]:
                    sent[place[source]] += count
                    received[place[destination]] += count
        return sent, received


class Paused:
    """A job that is stepped through."""

    def __init__(self, job, folder):
        self.job = job
        self.folder = folder
        self.number = 0

    def reaches(self):
        """The phase in front of which rank 0 waits now; None where the job has ended."""
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end:
            waiting = [name for name in os.listdir(self.folder) if name.startswith(f"{self.number + 1}-")]
            if waiting:
                return waiting[0].partition("-")[2]
            if self.job.process.poll() is not None:
                return None
            time.sleep(0.01)
        raise RuntimeError(f"no pause {self.number + 1} after {LIMIT_SECONDS} s: {self.job.command}")

    def goes_on(self):
        self.number += 1
        for name in os.listdir(self.folder):
            if name.startswith(f"{self.number}-"):
                os.remove(os.path.join(self.folder, name))


def at_rest(counters):
    """The counters once they stand still but for the supervisors, who talk twice a second: lost packets come again after
    a fifth of a second or two."""
    before = counters()
    while True:
        time.sleep(0.6)
        now = counters()
        if all(now[key] - before[key] < 10000 for key in now):
            return now
        before = now
