"""ReFrame tests of an installed refit: cases that run anywhere, with weight_sync and efficiency as performance.

    reframe -C SETTINGS.py -c scripts/reframe/refit_checks.py --list
    reframe -C SETTINGS.py -c scripts/reframe/refit_checks.py --run -S executable=/opt/refit/bin/refit

On GPUs: -S device=cuda. `-S steps=20` measures more refits. Reference values belong to a site: add them to
`reference` in a subclass, or compare the figures that ReFrame logs.
"""

import json
import os

import reframe as rfm
import reframe.utility.sanity as sn

# model, train layout, gen layout, ranks of both
CASES = [
    ("qwen3-0.6b-small", "PP2", "TP4", 6),
    ("llama-3.2-1b-small", "TP2xPP2", "TP4", 8),
    ("qwen3-30b-a3b-small", "EP2xPP2xDP2", "TP2xDP2", 8),
    ("deepseek-v3-small", "TP2xEP2", "TP2xDP2", 6),
]


class RefitBase(rfm.RunOnlyRegressionTest):
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    executable = "refit"
    device = variable(str, value="cpu")
    steps = variable(int, value=10)
    executor = parameter(["direct", "p2p", "golden"])

    @run_before("run")
    def end_together(self):
        # A rank that fails ends all, and its exit code is the job's. Slurm's own default may be no interface for MPI.
        if self.job.launcher.registered_name == "srun":
            self.job.launcher.options += ["--mpi=pmix", "--kill-on-bad-exit=1"]

    def result(self):
        """The run's document: what refit itself says of it."""
        with open(os.path.join(self.stagedir, "result.json"), encoding="utf-8") as file:
            return json.load(file)

    @sanity_function
    def weights_arrived(self):
        found = sn.evaluate(sn.assert_found(r"^OK$", self.stdout))
        result = self.result()
        return sn.all([
            found,
            sn.assert_eq((result["status"], result["exit_code"]), ("passed", 0)),
            sn.assert_eq(result["verification"]["elements_wrong"], 0),
            sn.assert_gt(result["verification"]["elements"], 0),
        ])  # fmt: skip

    @performance_function("s")
    def weight_sync(self):
        return self.result()["weight_sync"]["median"]

    @performance_function("bound / weight_sync")
    def efficiency(self):
        return self.result()["efficiency"]


@rfm.simple_test
class RefitCase(RefitBase):
    case = parameter(CASES, fmt=lambda case: "-".join(case[:3]))

    @run_after("init")
    def take_case(self):
        model, train, gen, ranks = self.case
        self.descr = f"{model}, {train} -> {gen}, {self.executor}"
        self.num_tasks = ranks
        self.executable_opts = [
            "run", "--model", model, "--train", train, "--gen", gen, "--executor", self.executor,
            "--device", self.device, "--steps", str(self.steps), "--json", "result.json",
        ]  # fmt: skip
