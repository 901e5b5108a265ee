"""Virtual machines that boot as instances of EC2 do: Debian's cloud-init and systemd, and a metadata service.

The image is made by debootstrap and kept between runs. qemu emulates the processor: a /dev/kvm that is there may not
work. The guest finds at 169.254.169.254 what `Metadata` serves, so that its user data and its own address come as on
EC2; the host reaches its port at a loopback address of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ec2rig.guest import Guest
from waiting import eventually

CACHE = Path(os.environ.get("BIGM_TEST_CACHE") or os.path.expanduser("~/.cache/bigm-tests"))  # as we were started
TOOLS = ("qemu-system-x86_64", "debootstrap", "mkfs.ext4", "unshare")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64", "iproute2", "ca-certificates"),
    *("cloud-init", "isc-dhcp-client", "openssh-server", "python3", "python3-cffi-backend"),
)
FILES = {  # cloud-init's own network configuration is for real network cards
    "etc/systemd/network/ether.network": "[Match]\nName=e*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n",
    "etc/cloud/cloud.cfg.d/90_image.cfg": "datasource_list: [Ec2]\nnetwork: {config: disabled}\n",
    "etc/machine-id": "",
    # The initrd, which is most of what an emulated processor has to unpack, needs the root disk's drivers alone.
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/initramfs-tools/conf.d/modules": "MODULES=list\n",
}
# What guards a processor is slow where each of its instructions is emulated; so is a timer on a busy computer.
KERNEL = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off nokaslr apparmor=0 no_timer_check loglevel=4"
NETWORK = "net=169.254.0.0/16,host=169.254.0.2,dns=169.254.0.3,dhcpstart=169.254.0.15"
ADDRESS = "169.254.0.15"  # of every guest, in a network of its own
MAC = "52:54:00:12:34:56"  # qemu's own
RELAY = """
import socket, sys, threading
outside, inside = socket.create_connection(("127.0.0.1", int(sys.argv[1]))), socket.socket(fileno=0)
def carry(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
threading.Thread(target=carry, args=(inside, outside), daemon=True).start()
carry(outside, inside)
"""


def missing() -> str:
    """Why no virtual machine can be booted here, or ""."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "virtual machines of x86-64 Linux only"
    if os.getuid() != 0:
        return "an image is made by root only"
    tools = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"there is no {', '.join(tools)} here" if tools else ""


def image() -> Path:
    """The folder with `root.img`, `vmlinuz` and `initrd`: made in minutes, and kept for as long as this recipe is."""
    recipe = repr((PACKAGES, sorted(FILES.items()), 1))
    folder = CACHE / f"debian-12-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not folder.exists():
        making = CACHE / f"making-{uuid.uuid4().hex}"
        making.mkdir(parents=True)
        try:
            _make(making)
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder


def _make(folder: Path) -> None:
    root = folder / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", str(root)]
    # In a namespace of its own mounts: what debootstrap leaves mounted goes with it.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        ["unshare", "--mount", *command], capture_output=True, text=True, timeout=900, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for path, text in FILES.items():
        (root / path).write_text(text)
    for inside in (["systemctl", "-q", "enable", "systemd-networkd"], ["update-initramfs", "-u"]):
        subprocess.run(["chroot", root, *inside], check=True, timeout=300, stderr=subprocess.DEVNULL)
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    for name in ("vmlinuz", "initrd"):
        (kernel,) = (root / "boot").glob(f"{name}*")
        shutil.copy(kernel, folder / name)
    with open(folder / "root.img", "wb") as disk:
        disk.truncate(3 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, folder / "root.img"], check=True, timeout=300)
    shutil.rmtree(root)


class Metadata:
    """The metadata service of one instance (IMDSv2), on a port of its own.

    Args:
        facts: what it tells, by the path below a version; folders are made of the paths.
        user_data: as the instance was launched with.
    """

    def __init__(self, facts: Mapping[str, str], user_data: bytes) -> None:
        tree = {**{path: text.encode() for path, text in facts.items()}, "user-data": user_data}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"tree": tree}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metadata")
        self._thread.start()
        self.port = self._server.server_port

    def close(self) -> None:
        """Serve no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    tree: Mapping[str, bytes]

    def log_message(self, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/latest/api/token" else 404, b"token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "token":
            return self._answer(401, b"")
        path = self.path.lstrip("/").partition("/")[2]  # without the version, of which all are the same
        if path in self.tree:
            return self._answer(200, self.tree[path])
        folder = path.rstrip("/") + "/"
        below = {re.sub("/.*", "/", each[len(folder) :]) for each in self.tree if each.startswith(folder)}
        return self._answer(200 if below else 404, "\n".join(sorted(below)).encode())

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _facts(name: str) -> dict[str, str]:
    """What cloud-init asks about an instance."""
    card = f"meta-data/network/interfaces/macs/{MAC}"
    return {
        "meta-data/instance-id": name,
        "meta-data/local-ipv4": ADDRESS,
        "meta-data/local-hostname": "virtual",
        "meta-data/placement/availability-zone": "xx-test-1a",
        f"{card}/device-number": "0",
        f"{card}/local-ipv4s": ADDRESS,
        "dynamic/instance-identity/document": json.dumps({"instanceId": name, "region": "xx-test-1"}),
    }


class VirtualMachine:
    """One that boots with *user_data*; use as a context.

    Args:
        folder: for its console and disks.
        user_data: as EC2 would give it.
        host: address here, below 127, at which its *port* is reached.
        disks: sizes of further disks, in bytes; they are blank.
    """

    def __init__(self, folder: Path, user_data: bytes, *, host: str, port: int, disks: Sequence[int] = ()) -> None:
        self.host, self.port = host, port
        self.console_file, self.errors_file = folder / "console", folder / "errors"
        self.metadata = Metadata(_facts(f"i-{uuid.uuid4().hex[:17]}"), user_data)
        command = self._command(folder, disks)
        with open(self.errors_file, "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)

    def _command(self, folder: Path, disks: Sequence[int]) -> list[str]:
        made = image()
        relay = folder / "relay.py"
        relay.write_text(RELAY)
        guest = f"guestfwd=tcp:169.254.169.254:80-cmd:{sys.executable} -I -S {relay} {self.metadata.port}"
        ec2 = f"ec2{uuid.uuid4()}"[:8] + str(uuid.uuid4())[8:]
        command = ["qemu-system-x86_64", "-machine", "q35"]  # the older kind of machine is slow to start again
        command += ["-accel", "tcg,thread=multi", "-m", "1024"]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{self.console_file}"]
        command += ["-smbios", f"type=1,manufacturer=Amazon EC2,uuid={ec2},serial={ec2}", "-device", "virtio-rng-pci"]
        command += ["-kernel", str(made / "vmlinuz"), "-initrd", str(made / "initrd")]
        command += ["-append", KERNEL]
        command += ["-netdev", f"user,id=net,{NETWORK},hostfwd=tcp:{self.host}:{self.port}-:{self.port},{guest}"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile="]
        for number, path in enumerate([made / "root.img", *_blank(folder, disks)]):
            command += ["-drive", f"file={path},if=none,id=disk{number},format=raw,snapshot=on"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        return command

    @property
    def console(self) -> str:
        """What it has said so far, and what its emulator has."""
        said = self.console_file.read_text(errors="replace") if self.console_file.exists() else ""
        return said + self.errors_file.read_text()

    def boots(self) -> int:
        """How often its init has started."""
        return self.console.count("Welcome to ")

    def running(self) -> bool:
        """Whether it has not powered itself off."""
        return self.process.poll() is None

    def off(self, timeout: float) -> None:
        """Wait until it has powered itself off."""
        eventually(lambda: not self.running(), timeout, lambda: self.console[-4000:], poll=0.1)

    def close(self) -> None:
        """Cut its power."""
        self.process.kill()
        self.process.wait()
        self.metadata.close()

    def __enter__(self) -> VirtualMachine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class VirtualGuest(Guest):
    """A virtual machine as what runs in an instance of the rig.

    Args:
        machine: switches it on.
        folder: of the instance; must not exist.
        ended: called, from a thread, when it has powered itself off.
    """

    def __init__(self, folder: Path, machine: Callable[[Path], VirtualMachine], ended: Callable[[], None]) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.process = None
        self.machine: VirtualMachine | None = None
        self._make = machine
        self._ended, self._ending = ended, False

    def start(self) -> None:
        """Switch it on."""
        self.machine = self._make(self.folder)
        self.process = self.machine.process
        threading.Thread(target=self._watch, name=f"rig-{self.folder.name}", daemon=True).start()

    def processes(self) -> list[int]:
        """Process ids of all that runs here for the instance."""
        return [self.machine.process.pid] if self.machine and self.machine.running() else []

    def stop(self, grace: float = 0.0) -> None:
        """Cut its power."""
        self._ending = True
        if self.machine:
            self.machine.close()

    def console(self) -> str:
        """What it has said."""
        return self.machine.console if self.machine else ""


def _blank(folder: Path, sizes: Sequence[int]) -> list[Path]:
    paths = [folder / f"disk{number}" for number in range(len(sizes))]
    for path, size in zip(paths, sizes):
        with open(path, "wb") as disk:
            disk.truncate(size)
    return paths
