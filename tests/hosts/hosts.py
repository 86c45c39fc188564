#!/usr/bin/env python3
"""Hosts on one machine: Linux namespaces, joined by a switch; their links can be limited, counted and cut.

    hosts.isolate()                          # first: this program goes on where nothing that it does stays behind
    with hosts.Hosts(3) as cluster:          # h1, h2, h3 with the addresses 10.77.0.1 to 10.77.0.3
        run([*cluster.on("h2"), "hostname"])
        run([*cluster.mpirun("h1:2,h2:2"), executable])
        cluster.limit("1gbit"); cluster.cut("h2"); cluster.mend("h2"); cluster.counted()
        with hosts.Slurm(cluster):           # slurmctld on h1, a slurmd on each
            run([*cluster.on("h1"), "srun", "--mpi=pmix", "-n", "6", executable])

A host has its own network, name, boot id, System V IPC, /dev/shm and /tmp (in which this repository and the work folder
are, if they lie there); processes, files, cores and memory are the machine's. From the command line:

    hosts.py [--hosts N] [--rate RATE] [--slurm] COMMAND...

runs a command on h1, with `on HOST COMMAND...`, `cut HOST`, `mend HOST` and `mpirun-on HOST:RANKS,... OPTIONS COMMAND...` in its PATH.

Needs root, util-linux' nsenter, iproute2 (ip, tc) and, for Slurm, slurmctld, slurmd, srun and munged. Without them a program that
calls `isolate` ends with 77, which ctest shows as skipped, and says what is missing. What is made belongs to namespaces that end
with the program, however it ends, and two programs see nothing of each other.
"""

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUN = "/run/hosts"  # of this program alone, as all of /run
SKIPPED = 77
LIMIT_SECONDS = 60  # for what takes one
BUCKET = "burst 256kb latency 50ms"  # of a limited link
# <sched.h>, <sys/mount.h>, <sys/prctl.h>
NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_PIDS, NEW_NETWORK = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000
DEATH_SIGNAL = 1

libc = ctypes.CDLL(None, use_errno=True)


def system(name, *arguments):
    """A call of the C library; OSError where it fails."""
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(source, target, kind=None, flags=0, data=None):
    text = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    try:
        system("mount", text[0], text[1], text[2], ctypes.c_ulong(flags), text[3])
    except OSError as error:
        raise OSError(error.errno, f"mount {source or ''} on {target}: {error.strerror}") from None


def own_mounts():
    """Gives this process mounts of its own, of which no other learns. In a chroot `/` is no mount, so that the rule
    has to be made from outside: entering a mount namespace, its own here, leads to its root."""
    system("unshare", NEW_MOUNTS)
    inside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    folder = os.getcwd()
    system("setns", namespace, NEW_MOUNTS)
    mount(None, "/", None, RECURSIVE | PRIVATE)
    os.fchdir(inside)
    os.chroot(".")
    os.chdir(folder)
    os.close(inside)
    os.close(namespace)


def skip(reason):
    print(f"SKIPPED: {reason}", flush=True)
    sys.exit(SKIPPED)


def require_tools(*names):
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        skip(f"{', '.join(missing)} not found: scripts/setup --hosts installs what hosts and Slurm on one machine need")


def isolate():
    """Goes on in a child with namespaces of its own, whose processes the kernel ends with it; the caller only waits for it
    and ends as it does. Ends with 77 where that is not possible."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        skip("hosts on one machine are made by root, on Linux")
    for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin"):
        if folder not in os.environ.get("PATH", "").split(":"):
            os.environ["PATH"] = os.environ.get("PATH", "") + ":" + folder
    require_tools("ip", "tc", "nsenter")
    for name in list(os.environ):  # of a job around this one
        if name.startswith(("SLURM", "OMPI_", "PMIX_", "PMI_")):
            del os.environ[name]
    try:
        own_mounts()
        system("unshare", NEW_PIDS | NEW_IPC | NEW_NETWORK)
    except OSError as error:
        skip(f"no namespaces for hosts: {error}")
    sys.stdout.flush()
    first = os.fork()
    if first != 0:
        wait_for(first)
    system("prctl", DEATH_SIGNAL, signal.SIGKILL)
    try:
        mount("proc", "/proc", "proc")
        mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
        os.mkdir(RUN)
        own_shared_memory()
        check_links()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"SKIPPED: hosts on one machine: {error}", flush=True)
        os._exit(SKIPPED)
    second = os.fork()
    if second != 0:
        reap(second)


def wait_for(child):
    """What the caller of `isolate` does: it ends as its child, whom signals end too."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def reap(child):
    """What process 1 does: it waits for whoever has lost his parent, and ends with `child`, which ends all others."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def own_shared_memory():
    mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777")


def check_links():
    """Tries what a cluster needs of the kernel, in this program's own network."""
    for command in ("ip link add probe type bridge", "ip link add probe0 type veth peer name probe1",
                    "tc qdisc add dev probe0 root tbf rate 1gbit burst 256kb latency 50ms", "ip link del probe0",
                    "ip link del probe"):  # fmt: skip
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)
        if done.returncode != 0:
            raise OSError(f"{command}: {done.stderr.strip()}")


def call(command, seconds=LIMIT_SECONDS):
    """What a command printed; an error with its words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


# How a command gets onto a host: a name, and a command line for the shell as ssh has it. The folder stays.
ENTER = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done # ssh's options
host=$1; shift
exec nsenter --target "$(cat {run}/$host.pid)" --net --uts --mount --ipc --root sh -c 'cd "$0" && eval "$1"' "$PWD" "$*"
"""
ON = """#!/bin/sh
host=$1; shift
exec nsenter --target "$(cat {run}/$host.pid)" --net --uts --mount --ipc --root sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
"""


class Hosts:
    """`count` hosts h1, h2, ... and a switch `sw` between them, inside an isolated program, until the end of `with`."""

    def __init__(self, count, visible=()):
        """`visible`: folders that every host shall see, should they lie in /tmp."""
        self.names = [f"h{i}" for i in range(1, count + 1)]
        self.visible = outermost([ROOT, os.getcwd(), sys.prefix, *visible])
        self.pids = {}
        self.rsh = write(f"{RUN}/rsh", ENTER.format(run=RUN), 0o755)
        self.enter = write(f"{RUN}/on", ON.format(run=RUN), 0o755)
        self.table = write(f"{RUN}/table", "127.0.0.1 localhost\n" + "".join(
            f"{self.address(name)} {name}\n" for name in self.names))  # fmt: skip

    def __enter__(self):
        for name in ("sw", *self.names):
            self.pids[name] = self.make(name)
            write(f"{RUN}/{name}.pid", str(self.pids[name]))
        switch = self.on("sw")
        call([*switch, "ip", "link", "add", "br0", "type", "bridge"])
        call([*switch, "ip", "link", "set", "br0", "up"])
        for name in self.names:
            port = self.port(name)
            call([*switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pids[name])])
            call([*switch, "ip", "link", "set", port, "master", "br0", "up"])
            call([*self.on(name), "ip", "addr", "add", self.address(name) + "/24", "dev", "eth0"])
            call([*self.on(name), "ip", "link", "set", "eth0", "up"])
        return self

    def __exit__(self, *_):
        """Ends every process of the hosts."""
        for name in self.pids:
            for pid in self.processes(name):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for pid in self.pids.values():
            os.waitpid(pid, 0)
        self.pids = {}

    def make(self, name):
        """A process that is a host as long as it lives."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self.furnish(name)
                os.write(writer, b"+")
                os.execvp("sleep", ["sleep", "infinity"])
            except Exception as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            word = pipe.read(1)
            if word != b"+":
                raise RuntimeError(f"{name}: {(word + pipe.read()).decode()}")
        return pid

    def furnish(self, name):
        """Makes this process the first of a host."""
        own_mounts()
        system("unshare", NEW_NAMES | NEW_IPC | NEW_NETWORK)
        system("sethostname", name.encode(), len(name))
        own_shared_memory()
        temporary = f"{RUN}/tmp-{name}"
        os.makedirs(temporary, exist_ok=True)
        mount("tmpfs", temporary, "tmpfs", 0, "mode=1777")
        for folder in self.visible:
            if folder.startswith("/tmp/"):
                os.makedirs(temporary + folder[len("/tmp") :])
                mount(folder, temporary + folder[len("/tmp") :], None, BIND | RECURSIVE)
        mount(temporary, "/tmp", None, BIND | RECURSIVE)
        if not os.path.exists("/sys/class/net"):  # a bare chroot: MPICH's UCX looks there for interfaces
            mount("sysfs", "/sys", "sysfs")
        if os.path.exists("/etc/hosts"):
            mount(self.table, "/etc/hosts", None, BIND)
        else:  # a bare chroot: nothing to cover with the table
            settings = tempfile.mkdtemp(prefix=f"etc-{name}-", dir=RUN)
            os.chmod(settings, 0o755)
            shutil.copytree("/etc", settings, symlinks=True, dirs_exist_ok=True)
            shutil.copy(self.table, f"{settings}/hosts")
            mount(settings, "/etc", None, BIND)
        mount(write(f"{RUN}/boot-{name}", f"{uuid.uuid4()}\n"), "/proc/sys/kernel/random/boot_id", None, BIND)
        call(["ip", "link", "set", "lo", "up"])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    @staticmethod
    def address(name):
        return f"10.77.0.{name[1:]}"

    @staticmethod
    def port(name):
        """The switch's end of a host's link."""
        return f"p{name[1:]}"

    def on(self, name):
        """The words before a command that run it on a host, in this folder."""
        return [self.enter, name]

    def mpirun(self, ranks, *options, by="slot"):
        """The words before a program that start it with Open MPI from the first of the hosts, e.g. "h1:2,h2:2"."""
        hosts = [word.partition(":") for word in ranks.split(",")]
        total = sum(int(number or 1) for _, _, number in hosts)
        return [*self.on(hosts[0][0]), "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--map-by", by,
                "--host", ranks, "-np", str(total), "--mca", "plm", "rsh", "--mca", "plm_rsh_agent", self.rsh,
                "--mca", "pml", "ob1", "--mca", "btl", "tcp,self,vader", "--mca", "btl_tcp_if_include", "eth0",
                "--mca", "oob_tcp_if_include", "eth0", "--mca", "mpi_yield_when_idle", "1", *options]  # fmt: skip

    def mpiexec(self, ranks, *options, mpiexec="mpiexec.mpich"):
        """The same with MPICH's Hydra."""
        hosts = [word.partition(":") for word in ranks.split(",")]
        total = sum(int(number or 1) for _, _, number in hosts)
        return [*self.on(hosts[0][0]), mpiexec, "-launcher", "ssh", "-launcher-exec", self.rsh, "-iface", "eth0", "-hosts", ranks,
                "-np", str(total), *options]  # fmt: skip

    def limit(self, rate, *names):
        """Limits the links of all or some hosts, in both directions: "200mbit", "1gbit"; None: as fast as the machine."""
        for name in names or self.names:
            for place, link in ((name, "eth0"), ("sw", self.port(name))):
                control = [*self.on(place), "tc", "qdisc"]
                if rate is None:
                    subprocess.run([*control, "del", "dev", link, "root"], capture_output=True, check=False, timeout=LIMIT_SECONDS)
                else:
                    call([*control, "replace", "dev", link, "root", "tbf", "rate", rate, *BUCKET.split()])

    def cut(self, name):
        """Pulls a host's cable."""
        call([*self.on("sw"), "ip", "link", "set", self.port(name), "down"])

    def mend(self, name):
        call([*self.on("sw"), "ip", "link", "set", self.port(name), "up"])

    def counted(self):
        """Bytes with their headers that each host has "received" and "sent" over its link since it was made."""
        return {(name, what): count for name in self.names
                for what, count in zip(("received", "sent"), link_bytes(self.pids[name]))}  # fmt: skip

    def processes(self, name, executable=None):
        """The living processes on a host; all, or those of a program."""
        network = os.readlink(f"/proc/{self.pids[name]}/ns/net")
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                if os.readlink(f"/proc/{pid}/ns/net") != network:
                    continue
                with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                    words = file.read()
                program, state = words[words.index("(") + 1 : words.rindex(")")], words[words.rindex(")") + 2]
            except OSError:
                continue
            if state != "Z" and executable in (None, program):
                found.append(pid)
        return found


def link_bytes(pid):
    """(received, sent) by eth0 of a process's network."""
    with open(f"/proc/{pid}/net/dev", encoding="utf-8") as file:
        for line in file:
            name, _, numbers = line.partition(":")
            if name.strip() == "eth0":
                values = numbers.split()
                return int(values[0]), int(values[8])
    raise RuntimeError(f"process {pid} has no eth0")


def outermost(folders):
    """The folders that lie in no other of them."""
    kept = []
    for folder in sorted(map(os.path.realpath, folders)):
        if not any(folder == other or folder.startswith(other + "/") for other in kept):
            kept.append(folder)
    return kept


SLURM_CONF = """ClusterName=hosts
SlurmctldHost={first}({address})
AuthType=auth/munge
AuthInfo=socket={run}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={run}/state
SlurmdSpoolDir={run}/spool-%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
InactiveLimit=0
KillWait=5
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}PartitionName=cpu Nodes={names} Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


class Slurm:
    """A Slurm cluster of the hosts, until the end of `with`; SLURM_CONF in the environment leads commands to it."""

    TOOLS = ("slurmctld", "slurmd", "srun", "sinfo", "munged")

    def __init__(self, hosts, cores=4):
        """`cores` of each node: as many ranks as it takes, whatever the machine has."""
        require_tools(*self.TOOLS)
        self.hosts = hosts
        self.run = f"{RUN}/slurm"
        self.daemons = []
        shutil.rmtree(self.run, ignore_errors=True)
        os.makedirs(f"{self.run}/state")
        nodes = "".join(
            f"NodeName={name} NodeAddr={hosts.address(name)} CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} "
            f"ThreadsPerCore=1 RealMemory=6000 State=UNKNOWN\n" for name in hosts.names
        )  # fmt: skip
        first = hosts.names[0]
        self.conf = write(f"{self.run}/slurm.conf", SLURM_CONF.format(
            run=self.run, first=first, address=hosts.address(first), nodes=nodes, names=",".join(hosts.names)))  # fmt: skip
        # Nothing here uses cgroups. Unlike `autodetect`, this asks for none where the machine has none.
        write(f"{self.run}/cgroup.conf", "CgroupPlugin=cgroup/v1\n")
        with open(f"{self.run}/munge.key", "wb") as file:
            file.write(os.urandom(128))
        os.chmod(file.name, 0o600)

    def __enter__(self):
        os.environ["SLURM_CONF"] = self.conf
        # Open MPI under srun: messages between hosts on their link; ranks that wait leave the cores to others.
        os.environ.update(OMPI_MCA_btl_tcp_if_include="eth0", OMPI_MCA_mpi_yield_when_idle="1")
        self.start("munged", "--foreground", "--force", f"--socket={self.run}/munge.socket", f"--key-file={self.run}/munge.key",
                   f"--pid-file={self.run}/munged.pid", f"--log-file={self.run}/munged.log",
                   f"--seed-file={self.run}/munged.seed")  # fmt: skip
        self.wait("munged", lambda: os.path.exists(f"{self.run}/munge.socket"))
        self.start(*self.hosts.on(self.hosts.names[0]), "slurmctld", "-D", "-f", self.conf)
        for name in self.hosts.names:
            os.makedirs(f"{self.run}/spool-{name}", exist_ok=True)
            # PMIx takes the link, as a site's settings would have it.
            self.start(*self.hosts.on(name), "env", "PMIX_MCA_ptl_tcp_if_include=eth0", "slurmd", "-D", "-N", name, "-f", self.conf)
        self.wait("sinfo", self.is_up)
        return self

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons = []
        os.environ.pop("SLURM_CONF", None)

    @staticmethod
    def srun(*options):
        """The words before a program that start it with srun, from a host."""
        return ["srun", "--mpi=pmix", "--kill-on-bad-exit=1", *options]

    def start(self, *command):
        with open(f"{self.run}/{len(self.daemons)}.out", "wb") as out:
            self.daemons.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))

    def is_up(self):
        done = subprocess.run([*self.hosts.on(self.hosts.names[0]), "sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True,
                              text=True, check=False, timeout=LIMIT_SECONDS)  # fmt: skip
        return done.stdout.split() == ["idle"] * len(self.hosts.names)

    def wait(self, what, condition, seconds=LIMIT_SECONDS):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in self.daemons):
                raise RuntimeError(f"Slurm does not start ({what}):\n{self.logs()}")
            time.sleep(0.1)

    def logs(self):
        """The last words of the daemons."""
        text = ""
        for name in sorted(os.listdir(self.run)):
            if name.endswith((".log", ".out")):
                with open(f"{self.run}/{name}", encoding="utf-8", errors="replace") as file:
                    text += f"--- {name}\n" + "".join(file.readlines()[-15:])
        return text


# What the command line's command finds in its PATH.
COMMANDS = {
    "cut": 'exec {run}/on sw ip link set "p${{1#h}}" down',
    "mend": 'exec {run}/on sw ip link set "p${{1#h}}" up',
    "limit": """rate=$1; shift
change() {{
  if [ "$rate" = off ]; then {run}/on "$1" tc qdisc del dev "$2" root 2>/dev/null || true; return; fi
  {run}/on "$1" tc qdisc replace dev "$2" root tbf rate "$rate" {bucket} || exit
}}
for host in ${{@:-{names}}}; do change "$host" eth0; change sw "p${{host#h}}"; done""",
}


def main():
    parser = argparse.ArgumentParser(description="Runs a command on h1 of a few hosts on this machine.")
    parser.add_argument("--hosts", type=int, default=3, help="how many (3)")
    parser.add_argument("--rate", help="of every link, e.g. 1gbit")
    parser.add_argument("--slurm", action="store_true", help="with Slurm on them")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("which command?")
    isolate()
    with Hosts(arguments.hosts) as hosts:
        if arguments.rate:
            hosts.limit(arguments.rate)
        for name, text in COMMANDS.items():
            write(f"{RUN}/{name}", f"#!/bin/sh\n{text.format(run=RUN, bucket=BUCKET, names=' '.join(hosts.names))}\n", 0o755)
        write(f"{RUN}/mpirun-on", '#!/bin/sh\nranks=$1; shift\nexec ' + " ".join(hosts.mpirun("h1")).replace(
            "--host h1 -np 1", '--host "$ranks"') + ' "$@"\n', 0o755)  # fmt: skip
        os.environ["PATH"] = f"{RUN}:{os.environ['PATH']}"
        if arguments.slurm:
            with Slurm(hosts):
                return subprocess.run([*hosts.on("h1"), *arguments.command], check=False).returncode
        return subprocess.run([*hosts.on("h1"), *arguments.command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
