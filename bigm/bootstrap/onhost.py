"""What runs on a host that only has a shell and a Python: starts agents that stay, tells which live, ends them.

Sent as source to `python3 -I -S -c 'exec(stdin)'`, with one request in it; `bigm.systems.ssh` is the other side. It
answers with lines of JSON behind a word of its own, so that whatever else a login prints is told apart, and ends: what
it has started listens on unix sockets, and belongs to nobody's session.

Each agent has a record, a small file in the user's cache folder, locked for as long as the process lives. The lock is
the proof of life: process ids are used again, and a record outlives a computer that was switched off.
"""

import atexit
import contextlib
import fcntl
import glob
import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from typing import Any

WORD = "BIGM "  # before each line of an answer
SOCKET = "s"  # of an agent, in its folder
ERRORS = "errors"  # its standard error
LONGEST = 90  # characters in the path of a unix socket: the least of all systems is 103, and ssh adds some
END_GRACE = 6.0  # seconds between SIGTERM and SIGKILL
SAID_AT_MOST = 4096  # bytes of an agent's standard error


def main(request: "dict[str, Any]") -> None:
    """Do what *request* asks for: "start" agents, "look" at records, "end" agents, or "examine" the host."""
    request["umask"] = os.umask(0o077)
    try:
        for answer in {"start": start, "look": look, "end": end, "examine": examine}[request["do"]](request):
            print(WORD + json.dumps(answer), flush=True)
    except OSError as error:
        print(WORD + json.dumps({"error": f"{error.strerror}: {error.filename}", "code": error.errno}), flush=True)
        sys.exit(70)


def start(request: "dict[str, Any]") -> "list[dict[str, Any]]":
    """Start the agents of one launch, but for those that this launch has started already.

    Args:
        request: "launch" (a `records.Launch` as a dictionary), "boot" (boot's source), "folder" (the cluster's folder
            on this host, "" makes one), "indices" (numbers that no other agent of the cluster has here), "direct"
            (listen on the address by which ssh came instead of a unix socket).
    """
    sweep()
    name = request["launch"]["cluster"]
    known = {record["index"]: record for record in records() if record["cluster"] == name and record["alive"]}
    folder = request["folder"] or next((os.path.dirname(record["folder"]) for record in known.values()), "")
    if not is_own(folder):
        folder = make_folder()
    agents = []
    for index in request["indices"]:
        try:
            agents.append(known[index] if index in known else start_one(request, folder, index))
        except OSError as error:
            shutil.rmtree(os.path.join(folder, str(index)), ignore_errors=True)
            agents.append({"index": index, "failed": f"{error.strerror}: {error.filename or folder}"})
    if not any("pid" in agent for agent in agents):
        leave(folder)
    python = ".".join(map(str, sys.version_info[:3]))
    return [{"folder": folder, "python": python, "executable": sys.executable}, *agents]


def is_own(folder: str) -> bool:
    """Whether a folder is there and ours: once ours was removed, anybody may have made another one of its name."""
    with contextlib.suppress(OSError):
        found = os.lstat(folder)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False


def make_folder() -> str:
    """A folder of this cluster on this host, where paths are short and files can be written."""
    folder = tempfile.gettempdir()
    fits = len(folder) < LONGEST - 30 and ":" not in folder  # which ends a path, for ssh
    return tempfile.mkdtemp(prefix="bigm-", dir=folder if fits else "/tmp")


def start_one(request: "dict[str, Any]", cluster_folder: str, index: int) -> "dict[str, Any]":
    """Start one agent; it listens when this returns, and is no child of ours."""
    launch = dict(request["launch"], folder=os.path.join(cluster_folder, str(index)))
    os.mkdir(launch["folder"])
    listener = listen(launch["folder"], request["direct"])
    errors = os.open(os.path.join(launch["folder"], ERRORS), os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    record = {
        "index": index,
        "cluster": launch["cluster"],
        "launch": launch["launch"],
        "folder": launch["folder"],
        "address": address_of(listener),
        "host": socket.gethostname(),
        "started": time.time(),
    }
    path, lock = new_record(record)
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.close(read)
                record["pid"] = os.getpid()
                os.pwrite(lock, json.dumps(record).encode(), 0)
                os.write(write, b"%d" % record["pid"])
                os.close(write)
                os.umask(request["umask"])
                detach(errors)
                be(launch, listener, request["boot"], path, record)
        finally:
            os._exit(0)  # never goes on as our parent does, whatever went wrong
    os.wait()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        record["pid"] = int(pipe.read() or 0)
    os.close(lock)
    os.close(errors)
    listener.close()
    return dict(record, alive=record["pid"] > 0)


def listen(folder: str, direct: bool) -> socket.socket:
    """The one port of an agent: a unix socket in its folder, or a TCP port for its peers to dial."""
    if direct:
        host = os.environ["SSH_CONNECTION"].split()[2]
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.bind((host, 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(folder, SOCKET))
    listener.listen(512)
    return listener


def address_of(listener: socket.socket) -> str:
    """Where it listens: a path, or "host:port"."""
    name = listener.getsockname()
    return name if isinstance(name, str) else "{}:{}".format(f"[{name[0]}]" if ":" in name[0] else name[0], name[1])


def detach(errors: int) -> None:
    """Belong to no session, and to nobody who waits for the end of our output."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number, file in enumerate((null, null, errors)):
        os.dup2(file, number)
    os.close(null)
    os.close(errors)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGALRM):  # of before there is an agent
        signal.signal(number, lambda *_: sys.exit())


def be(launch: "dict[str, Any]", listener: socket.socket, source: str, path: str, record: "dict[str, Any]") -> None:
    """Be the agent until its end, in a process of its own, and leave nothing behind but why it failed."""
    space: dict[str, Any] = {"__name__": "boot"}
    code = 0
    try:
        exec(compile(source, "boot", "exec"), space)
        space["boot"](launch, listener)
    except SystemExit as ended:
        code = int(bool(ended.code))
        if code:
            keep_reason(path, record, f"{ended.code}")
    except BaseException:  # noqa: BLE001 - told by the record
        keep_reason(path, record, traceback.format_exc(limit=-3))
        code = 1
    finally:
        if not code:
            os.unlink(path)
        shutil.rmtree(launch["folder"], ignore_errors=True)
        leave(os.path.dirname(launch["folder"]))
        atexit._run_exitfuncs()  # what the agent keeps elsewhere goes too
        os._exit(code)


def keep_reason(path: str, record: "dict[str, Any]", said: str) -> None:
    """Leave in the record why there is no agent."""
    with contextlib.suppress(OSError), open(path, "w") as file:
        json.dump(dict(record, said=said[-SAID_AT_MOST:]), file)


def leave(folder: str) -> None:
    """Remove the cluster's folder, if nobody else is in it: what else is there ssh has left."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
        if not any(name.isdecimal() for name in names):
            shutil.rmtree(folder, ignore_errors=True)


def look(request: "dict[str, Any]") -> "list[dict[str, Any]]":
    """The records of "cluster", or of all; of those that live with what they said, on demand with their "size"."""
    found = [record for record in records() if request.get("cluster") in (None, record["cluster"])]
    for record in found:
        record.setdefault("said", tail(os.path.join(record["folder"], ERRORS)))
        if request.get("sizes"):
            record["size"] = size_of(record["folder"])
    return found


def size_of(folder: str) -> int:
    """Bytes of disk that the files below a folder occupy."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total


def examine(request: "dict[str, Any]") -> "list[dict[str, Any]]":
    """What the host is like, for whoever wants to start machines there; changes nothing.

    Args:
        request: "minor", the version of Python that programs need ("3.11").
    """
    python = shutil.which("python" + request["minor"]) or ""
    if sys.version_info[:2] == tuple(map(int, request["minor"].split("."))):
        python = sys.executable
    memory = dict.fromkeys(("MemTotal", "MemAvailable"), 0)
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        memory.update(
            (line.split(":")[0], int(line.split()[1]) << 10) for line in file if line.startswith(tuple(memory))
        )
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        {
            "python": ".".join(map(str, sys.version_info[:3])),
            "executable": sys.executable,
            "program_python": python,
            "cpus": cpus,
            "memory": memory,
            "time": time.time(),
            "cache": place_of(os.path.expanduser("~/.cache/bigm")),
            "temporary": place_of(tempfile.gettempdir()),
        }
    ]


def place_of(path: str) -> "dict[str, Any]":
    """A folder as it is, or as the nearest that exists above it."""
    there = path
    while not os.path.exists(there):
        there = os.path.dirname(there)
    found = os.statvfs(there)
    return {
        "path": path,
        "free": found.f_bavail * found.f_frsize,
        "writable": os.access(there, os.W_OK) and not found.f_flag & os.ST_RDONLY,
        "noexec": bool(found.f_flag & getattr(os, "ST_NOEXEC", 0)),
    }


def end(request: "dict[str, Any]") -> "list[dict[str, Any]]":
    """End the agents "indices" of "cluster", and see that nothing is left of them. Unknown ones have ended."""
    wanted = [r for r in records() if r["cluster"] == request["cluster"] and r["index"] in request["indices"]]
    deadline = time.monotonic() + END_GRACE
    for record in wanted:
        if record["alive"]:
            send(record["pid"], signal.SIGTERM)
    while any(is_alive(record["path"]) for record in wanted) and time.monotonic() < deadline:
        time.sleep(0.01)  # no child of ours: there is nothing to wait on
    left = []
    for record in wanted:
        if is_alive(record["path"]):
            send(record["pid"], signal.SIGKILL)
            give_up = time.monotonic() + END_GRACE
            while is_alive(record["path"]) and time.monotonic() < give_up:
                time.sleep(0.01)  # as above
        if is_alive(record["path"]):
            left.append({"index": record["index"], "left": f"process {record['pid']} does not end"})
        else:
            remove(record)
    return left


def send(pid: int, number: int) -> None:
    """Send a signal to a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def sweep() -> None:
    """Remove what killed agents have left here; why one failed is kept for an hour."""
    for record in records():
        if not record["alive"] and ("said" not in record or record["started"] < time.time() - 3600):
            remove(record)


def remove(record: "dict[str, Any]") -> None:
    """Remove all files of an agent that has ended."""
    shutil.rmtree(record["folder"], ignore_errors=True)
    leave(os.path.dirname(record["folder"]))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record["path"])


def record_folders() -> "list[str]":
    """Where records may be: the cache folder of the user, or what stands in for one that cannot be written."""
    places = [os.path.join(place, f"bigm-{os.getuid()}") for place in ("/var/tmp", tempfile.gettempdir())]
    return [os.path.join(place, "machines") for place in (os.path.expanduser("~/.cache/bigm"), *places)]


def new_record(record: "dict[str, Any]") -> "tuple[str, int]":
    """Write a record where that can be done, and lock it; its path, and a descriptor that holds the lock."""
    failure = OSError()
    for folder in record_folders():
        path = os.path.join(folder, f"{record['cluster']}-{record['index']}.json")
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            if os.stat(folder).st_uid != os.getuid():
                continue  # somebody else's, in a folder that is everybody's
            lock, name = tempfile.mkstemp(dir=folder)
        except OSError as error:
            failure = error
            continue
        try:
            os.pwrite(lock, json.dumps(record).encode(), 0)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(name, path)  # locked already: nobody is to take it for one whose process has ended
        except OSError as error:
            failure = error
            os.close(lock)
            os.unlink(name)
            continue
        return path, lock
    raise failure


def records() -> "list[dict[str, Any]]":
    """What records there are of agents on this very computer, which may share its home folder with others."""
    found = []
    for folder in record_folders():
        if not os.path.isdir(folder) or os.stat(folder).st_uid != os.getuid():
            continue
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.json"))):
            try:
                with open(path) as file:
                    record = json.load(file)
                if record["host"] == socket.gethostname():
                    found.append(dict(record, path=path, alive=is_alive(path)))
            except (OSError, ValueError, KeyError):
                continue  # removed meanwhile, or not ours
    return found


def is_alive(path: str) -> bool:
    """Whether the process lives that locked this record."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who asks at the same time is not to see us
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def tail(path: str) -> str:
    """The end of a file, or ""."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - SAID_AT_MOST))
        return file.read().decode("utf-8", "replace").strip()
    return ""
