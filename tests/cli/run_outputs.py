"""Files and streams: what cannot be written is said and is exit code 3, nothing half-written or foreign is left or lost.

    run_outputs.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "..", "scripts")]
import safetensors  # noqa: E402
from job import LIMIT_SECONDS, Started, Suite  # noqa: E402
from launcher import mpirun  # noqa: E402
from refit_matrix import runner  # noqa: E402

PLAN = "plan --model qwen3-0.6b-small --train TP2 --gen TP2"
RUN = "run --model qwen3-0.6b-small --layers 1 --train TP1 --gen TP1"
HUGE = 20 << 30  # bytes of a checkpoint that is never written to its end


def shell(suite, script, seconds=LIMIT_SECONDS):
    """Runs a script of bash in the work folder, where `refit` is the executable and `mpi N` starts N ranks."""
    launch = shlex.join(mpirun(1)).replace("-np 1", '-np "$1"')
    words = f'refit() {{ {shlex.quote(suite.args.refit)} "$@"; }}; mpi() {{ {launch} "${{@:2}}"; }}; R={shlex.quote(suite.args.refit)}; '
    return Started(["bash", "-c", words + script], suite.args.refit, suite.args.inputs, suite.work).wait(seconds)


def fresh(suite, name):
    folder = suite.path(name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


def write(path, content="mine"):
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def ends(suite, script, code, *said):
    """The script's exit code, and what it says on stderr."""
    ended = shell(suite, script)
    suite.check_code(ended, code, script)
    for word in said:
        suite.check(word in ended.err, f"{script}: does not say '{word}'", ended)
    return ended


def device(suite, name, minor):
    """A memory device of our own: the machine's would be lost where refit replaced it. None where that is not permitted."""
    path = suite.path(name)
    try:
        os.mknod(path, 0o020666, os.makedev(1, minor))
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        print(f"{name}: {error}: skipped")
        return None
    return path


def result_is_error(suite, name, code, ended, *words):
    result = suite.result(name, ended)
    suite.check((result.get("status"), result.get("exit_code")) == ("error", code), f"{name}: not an error", ended)
    for word in words:
        suite.check(word in result.get("error", {}).get("message", ""), f"{name}: {result.get('error')}", ended)


def streams(suite):
    """Full and closed stdout: 3; a reader that has gone: as if it were there; stderr changes nothing."""
    fresh(suite, "streams")
    full = "refit: error: cannot write to stdout: No space left on device"
    for command in ("list models", "--help", "run --help", "--version", "inspect qwen3-0.6b-small", f"{PLAN} --classify"):
        ends(suite, f"refit {command} > /dev/full", 3, full)
    ends(suite, "refit list models >&-", 3, "refit: error: cannot write to stdout: Bad file descriptor")
    for closed in ("2>&-", "2>/dev/full", "<&- 2>&-"):
        ends(suite, f"refit list nonsense {closed}", 2)
        ends(suite, f"refit list models {closed} > /dev/null", 0)
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "REFIT_INPUTS": suite.args.inputs}
    gone = subprocess.run([suite.args.refit, "list", "models"], stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    suite.check((gone.returncode, gone.stderr) == (0, b""), f"a reader that has gone: {gone}")
    # What is opened must not become stdout, or what is printed would end in it.
    ends(suite, "refit synth qwen3-0.6b-small streams/a --layers 1 >&-", 3)
    ends(suite, "refit convert streams/a streams/b >&- 2>&-", 3)
    ends(suite, "refit compare streams/a streams/b", 0)
    ended = ends(suite, f"refit {PLAN} --json streams/p.json > /dev/full", 3, full)
    result_is_error(suite, "streams/p.json", 3, ended, "stdout")


def streams_of_a_run(suite):
    """The results are written all the same, and say what happened."""
    fresh(suite, "runs")
    ended = ends(suite, f"mpi 2 sh -c 'exec $0 {RUN} --json runs/a.json --csv runs/a.csv > /dev/full' $R", 3, "stdout: No space")
    result_is_error(suite, "runs/a.json", 3, ended, "stdout: No space")
    suite.check(suite.result("runs/a.json").get("verification", {}).get("elements_wrong") == 0, "no verification", ended)
    suite.check(len(read(suite.path("runs/a.csv")).splitlines()) == 12, "the CSV of a run with a full stdout", ended)
    for closed in ("2>&-", "2>/dev/full"):
        ended = ends(suite, f"mpi 2 sh -c 'exec $0 {RUN} --json runs/b.json --force {closed}' $R", 0)
        suite.check(suite.result("runs/b.json", ended).get("status") == "passed", f"{closed}: not passed", ended)


def file_size_limits(suite):
    """ulimit -f: an error with the file's name, and no temporary file."""
    folder = fresh(suite, "limits")
    ends(suite, "refit synth qwen3-0.6b-small limits/a --layers 1", 0)
    limited = "ulimit -f 40; refit"
    ends(suite, f"{limited} synth qwen3-0.6b-small limits/b", 3, "limits/b/model.safetensors: ", "File too large")
    for target in ("c", "d --max-shard-size 1MB"):
        ends(suite, f"{limited} convert limits/a limits/{target}", 3, "limits/" + target[0], ".h5: ", "File too large")
    ends(suite, f"ulimit -f 1; refit {PLAN} --json limits/p.json", 3, "limits/p.json: File too large")
    left = sorted(name for _, _, names in os.walk(folder) for name in names)
    suite.check(left == ["config.json", "model.safetensors"], f"limits: {left} are left")


def begun(suite, job, folder):
    """Waits until something has been written to a folder's temporary file; its name."""
    while job.process.poll() is None:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name.startswith(".") and os.path.getsize(os.path.join(folder, name)) > 1 << 20:
                return name
        time.sleep(0.002)
    suite.check(False, f"ended before it could be interrupted: {job.command}", job.wait())
    return ""


def huge_checkpoint(suite):
    """A checkpoint of zeros that takes no space."""
    folder = fresh(suite, "huge")
    header = json.dumps({"w": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}}).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + HUGE)
    return folder


def interruptions(suite):
    """Signals that ask remove the temporary files; after SIGKILL the next writer there does, and removes nothing else."""
    commands = (("synth", "qwen3-8b"), ("convert", huge_checkpoint(suite)))
    for command, source in commands:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            what = f"{command}, {number.name}"
            folder = fresh(suite, "interrupted")
            job = suite.start(0, command, source, folder, "--force")
            temporary = begun(suite, job, folder)
            os.kill(job.process.pid, number)
            ended = job.wait()
            left = os.listdir(folder)
            if number != signal.SIGKILL:
                suite.check_code(ended, 3, what)
                suite.check(f"refit: error: interrupted by {number.name}" in ended.err, f"{what}: not said", ended)
                suite.check(left == [], f"{what}: {left} are left", ended)
                continue
            suite.check(left == [temporary], f"{what}: {left} are left", ended)
            other = re.sub(r"\.[0-9a-f]{16}-", ".0123456789abcdef-", temporary)  # of another machine
            for name in (other, ".notes.refit.tmp"):
                write(os.path.join(folder, name))
            ends(suite, "refit synth qwen3-0.6b-small interrupted --layers 1", 0)
            left = sorted(os.listdir(folder))
            wanted = sorted([other, ".notes.refit.tmp", "config.json", "model.safetensors"])
            suite.check(left == wanted, f"after {what}: {left}, not {wanted}")
    ends(suite, "trap '' HUP; refit synth qwen3-0.6b-small hup --force --layers 1 & kill -HUP $!; wait $!", 0)  # nohup
    shutil.rmtree(suite.path("huge"))


def full_disks(suite):
    """A file system without space: 3, with the file's name, for everything that is written."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode != 0:
        print("full_disks: not permitted to mount here: skipped")
        return
    fresh(suite, "disk")
    ends(suite, "refit synth qwen3-0.6b-small source --layers 1 --force", 0)
    parts = (
        ("refit synth qwen3-0.6b-small disk/a", "disk/a/model.safetensors: "),
        ("refit convert source disk/b", "disk/b/model.h5: "),
        (f"mpi 2 $R {RUN} --dump-gen disk/c --json c.json --force", "disk/c/gen-rank-00000.safetensors: "),
        (f"dd if=/dev/zero of=disk/zeros; mpi 2 $R {RUN} --csv c.csv --json disk/d.json --force", "disk/d.json: "),
    )
    for script, said in parts:
        inside = f"mount -t tmpfs -o size=64k none disk && {{ {script}; code=$?; ls -A disk disk/*; exit $code; }}"
        ended = shell(suite, f"export -f refit mpi; export R; unshare -m bash -c {shlex.quote(inside)}")
        suite.check_code(ended, 3, script)
        suite.check(said in ended.err and "No space left on device" in ended.err, f"{script}: not said", ended)
        suite.check(".refit.tmp" not in ended.out, f"{script}: a temporary file is left", ended)
        if "c.json" in script:
            result_is_error(suite, "c.json", 3, ended, said)
            suite.check(suite.result("c.json")["error"].get("rank") == 1, "the rank that could not dump", ended)


def each_by_itself(suite):
    """One bad output takes no other along; all bad ones are named before anything is loaded."""
    fresh(suite, "each")
    if device(suite, "each/full", 7):
        good = "--json each/a.json --hdf5 each/a.h5 --junit each/a.xml --m2n-metrics each/m.json"
        said = "cannot write each/full: No space left on device"
        ended = ends(suite, f"mpi 2 $R {RUN} {good} --csv each/full", 3, f"refit: error: {said}")
        result_is_error(suite, "each/a.json", 3, ended, said)
        suite.check("<error" in read(suite.path("each/a.xml")), "the JUnit file says nothing", ended)
        suite.check(all(os.path.getsize(suite.path("each", name)) for name in ("a.h5", "m.json")), "others", ended)
        suite.check(ended.out.rstrip().endswith(said), "the summary gives another verdict", ended)
        plan = f"refit {PLAN} --picture each/p.svg --byte-matrix each/full --json each/p.json"
        ended = ends(suite, plan, 3, f"refit: error: {said}")
        result_is_error(suite, "each/p.json", 3, ended, said)
        suite.check("<svg" in read(suite.path("each", "p.svg")), "the picture is missing", ended)

    bad = "--csv none/a.csv --hdf5 each --junit each/old --dump-gen /proc/d"
    write(suite.path("each", "old"))
    ended = ends(
        suite, f"mpi 2 $R {RUN} --json each/b.json {bad}", 2, "4 outputs cannot be written", "none/a.csv", "each: it is a folder",
        "each/old exists", "/proc/d: cannot create",
    )  # fmt: skip
    suite.check("loading" not in ended.err, "loaded with bad outputs", ended)
    for other in ("./each/c", "$PWD/each/c", "each/../each/c"):
        ends(suite, f"rm -f each/c; mpi 2 $R {RUN} --json each/c --csv {other}", 2, "two outputs would be written to")
        ends(suite, f"rm -f each/c; refit {PLAN} --json each/c --picture {other}", 2, "two outputs would be written to")
    suite.check(read(suite.path("each", "old")) == "mine", "an output was replaced without --force", ended)
    result_is_error(suite, "each/b.json", 2, ended, "none/a.csv")


def what_is_no_file(suite):
    """Devices and FIFOs are written to, links stay, and folders of checkpoints and dumps take no links."""
    fresh(suite, "kinds")
    if device(suite, "kinds/null", 3):
        ends(suite, f"refit {PLAN} --json kinds/null --force && test -c kinds/null", 0)
    os.mkfifo(suite.path("kinds", "fifo"))
    ended = ends(suite, f"cat kinds/fifo > kinds/got & refit {PLAN} --json kinds/fifo --force && wait && test -p kinds/fifo", 0)
    suite.check(suite.result("kinds/got", ended).get("schema") == "refit.plan", "what came through the FIFO", ended)
    ended = ends(suite, f"refit {PLAN} --json /dev/stdout > kinds/out", 0)
    printed = read(suite.path("kinds/out"))
    document, _ = json.JSONDecoder().raw_decode(printed[printed.index("{"):])
    suite.check(printed.startswith("# refit") and document["schema"] == "refit.plan", "/dev/stdout", ended)

    os.makedirs(suite.path("kinds", "far"))
    os.symlink("far/result", suite.path("kinds", "link"))
    for _ in range(2):
        ends(suite, f"refit {PLAN} --json kinds/link --force && test -L kinds/link && test -f kinds/far/result", 0)
    suite.check(suite.result("kinds/far/result").get("schema") == "refit.plan", "the link's target")
    ends(suite, f"refit {PLAN} --json kinds/far --force", 2, "it is a folder")
    write(suite.path("kinds", "precious"))
    for name, command in (("model.safetensors", "refit synth qwen3-0.6b-small kinds/linked --layers 1 --force"),
                          ("gen-rank-00000.safetensors", f"mpi 2 $R {RUN} --dump-gen kinds/linked --force")):  # fmt: skip
        fresh(suite, "kinds/linked")
        os.symlink("../precious", suite.path("kinds", "linked", name))
        ends(suite, command, 2, f"{name}: not a regular file")
    suite.check(read(suite.path("kinds", "precious")) == "mine", "what a link led to was replaced")


def older_results(suite):
    """With --force none of an earlier run's results is there once a run has started, so none survives one that is killed."""
    fresh(suite, "older")
    outputs = {"--json": "a.json", "--csv": "a.csv", "--hdf5": "a.h5", "--junit": "a.xml", "--m2n-metrics": "m.json"}
    words = [word for option, name in outputs.items() for word in (option, suite.path("older", name))]
    for name in outputs.values():
        write(suite.path("older", name), '{"status": "passed"}')
    job = suite.start(2, *RUN.split(), *words, "--steps", 1_000_000, "--force")
    for line in job.process.stdout:
        if re.match(r" +1 +[\d.]+ ", line):
            break
    job.kill()
    ended = job.wait()
    left = [name for name in os.listdir(suite.path("older")) if not name.endswith(".refit.tmp")]
    suite.check(left == [], f"of an earlier run: {left}", ended)
    for name in outputs.values():
        write(suite.path("older", name), '{"status": "passed"}')
    ended = suite.run(3, *RUN.split(), *words, "--force")  # one rank too many
    suite.check_code(ended, 2, "a wrong number of ranks")
    result_is_error(suite, "older/a.json", 2, ended, "needs 2 ranks")
    suite.check(not os.path.exists(suite.path("older/m.json")), "metrics of an earlier run", ended)


def killed_before_mpi(suite):
    """Rank 0 dies before its first step: the others take the older result away, and say what happened."""
    fresh(suite, "early")
    write(suite.path("early", "a.json"), '{"status": "passed"}')
    die = '[ "$OMPI_COMM_WORLD_RANK" = 0 ] && sleep 0.5 && kill -KILL $$; '
    ended = shell(suite, f"mpi 4 sh -c '{die}exec $0 {RUN.replace('TP1', 'TP2')} --json early/a.json --force' $R")
    suite.check(ended.code != 0, "a job without rank 0", ended)
    result = suite.result("early/a.json", ended)
    suite.check(result["exit_code"] == 3 and "rank 0 (host" in result["error"]["message"], f"early/a.json: {result}", ended)


def without_a_reader(suite):
    """While a FIFO's reader does not come no file says "passed"; timeouts and signals then are the verdict."""
    fresh(suite, "fifo")
    os.mkfifo(suite.path("fifo", "csv"))
    words = [*RUN.split(), "--steps", 1, "--warmup", 0, "--json", "fifo/a.json", "--junit", "fifo/a.xml", "--csv", "fifo/csv", "--force"]
    for blow, status, said in ((None, "error", "the results are not written after"), (signal.SIGTERM, "interrupted", "SIGTERM")):
        job = suite.start(2, *words, "--timeout", 2, "--set", f"run.phase_seconds={2 if blow is None else 60}")
        for line in job.process.stdout:
            if blow is not None and re.match(r" +1 +[\d.]+ ", line):
                break
        if blow is not None:
            while len(job.ranks()) > 1:  # the others end first
                time.sleep(0.01)
            suite.check(not os.path.exists(suite.path("fifo", "a.json")), "a result before its streams")
            time.sleep(0.3)
            os.kill(job.ranks()[0], blow)
        ended = job.wait()
        suite.check_code(ended, 3, status)
        result = suite.result("fifo/a.json", ended)
        suite.check((result["status"], result["exit_code"]) == (status, 3), f"{status}: {result['status']}", ended)
        suite.check(said in result["error"]["message"] and said in ended.err, f"{status}: {result['error']}", ended)
        suite.check("<error" in read(suite.path("fifo", "a.xml")), f"{status}: JUnit", ended)
        left = sorted(os.listdir(suite.path("fifo")))
        suite.check(left == ["a.json", "a.xml", "csv"], f"{status}: {left}", ended)


def older_dumps(suite):
    """Of an earlier run with more ranks no dump is left; what is not refit's stays."""
    fresh(suite, "dumps")
    dumps = "--dump-train dumps --dump-gen dumps"
    many = RUN.replace("TP1", "TP2")
    ends(suite, f"mpi 4 $R {many} {dumps}", 0)
    tensors = {"w": safetensors.Tensor("U8", (1,), b"x")}
    safetensors.write(suite.path("dumps", "gen-rank-00007.safetensors"), tensors)  # of a real engine
    for name in ("notes.txt", "train-rank-00008.safetensors", "gen-rank-00009.h5"):
        write(suite.path("dumps", name))
    before = sorted(os.listdir(suite.path("dumps")))
    ends(suite, f"mpi 2 $R {RUN} {dumps}", 2, "already holds dumps")
    suite.check(sorted(os.listdir(suite.path("dumps"))) == before, "dumps were touched without --force")
    ended = ends(suite, f"mpi 2 $R {RUN} {dumps} --force", 0)
    left = sorted(os.listdir(suite.path("dumps")))
    gone = {f"{side}-rank-00001.safetensors" for side in ("train", "gen")}
    suite.check(set(before) - set(left) == gone and set(left) <= set(before), f"dumps: {before} -> {left}", ended)


def inputs_outlive_runs(suite):
    """An output that is an input is refused, and both are still there."""
    folder = fresh(suite, "inputs")
    case = os.path.join(folder, "case.toml")
    write(case, 'model.config = "' + os.path.join(suite.args.inputs, "models/qwen3-0.6b-small/config.json") + '"\n'
          'model.layers = 1\ntrain.layout = "TP1"\ngen.layout = "TP1"\n')  # fmt: skip
    before = read(case)
    ends(suite, f"cd {folder} && mpi 2 $R run case.toml --json ./case.toml --force", 2, "is the case, which is read")
    suite.check(read(case) == before, "the case is gone")
    weights = suite.checkpoint("qwen3")
    index = os.path.join(weights, "config.json")
    before = read(index)
    ends(suite, f"mpi 2 $R run --checkpoint {weights} --train TP1 --gen TP1 --json {index} --force", 2, "is a file of model.checkpoint")
    link = os.path.join(folder, "link")
    os.symlink(index, link)
    ends(suite, f"mpi 2 $R run --checkpoint {weights} --train TP1 --gen TP1 --json {link} --force", 2, "is a file of model.checkpoint")
    suite.check(read(index) == before, "the checkpoint's config is gone")


def scripts_write_whole_files(suite):
    folder = fresh(suite, "scripts")
    file = os.path.join(folder, "matrix.json")
    runner.write(file, "old")
    try:
        runner.write(file, "half a \ud800")
        suite.check(False, "a lone surrogate was written")
    except UnicodeEncodeError:
        pass
    suite.check(read(file) == "old" and os.listdir(folder) == ["matrix.json"], f"scripts: {os.listdir(folder)}")


Suite(__doc__).main(
    streams, streams_of_a_run, file_size_limits, interruptions, full_disks, each_by_itself, what_is_no_file, older_results,
    killed_before_mpi, without_a_reader, older_dumps, inputs_outlive_runs, scripts_write_whole_files
)  # fmt: skip
