"""Faults for clusters on machines in process: kill, cut, delay, partition, take away, in an order that a seed repeats.

    faults = Faults(seed=7)
    with bigm.start(InProcess(network=faults)) as cluster:
        ...
        faults.partition(machines[0], machines[1])

They act where the bytes are: each connection between the driver and a machine, or between machines, goes through a
relay (`bigm.testing.relay`). What is above, TLS and protocol included, is what runs on real machines.

What is drawn is a function of the seed, of what it is drawn for, and of how many times that was drawn before; never of
time or threads. So the same seed and the same calls of these methods give the same victims, and connection number 3
from the driver to m1 has the same fate, in every run. How many connections a run makes, and which of its calls a cut
hits, is up to the program.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bigm.cluster import Cluster
from bigm.errors import BigmError, ConfigError, NotSupported
from bigm.lifecycle import Phase, State
from bigm.machine import Machine
from bigm.manualclock import ManualClock
from bigm.routes import tcp_connect
from bigm.rpc.identity import DRIVER
from bigm.systems.inprocess import InProcess, Network
from bigm.testing.relay import Relay, Wire

EVERYONE = "*"
_FLAKY_BYTES = 32 << 10  # a flaky connection is cut within so many bytes
_KILL = 30.0  # seconds in which a killed process is known to be gone
_STRIKES = ("drop", "delay", "partition", "heal")


@dataclass
class _Conditions:
    """What connections between two parties suffer."""

    partition: str = ""  # "said" or "silent"
    connecting: float = 0.0  # seconds
    delay: float = 0.0  # seconds
    flaky: float = 0.0  # probability
    duplicate: bool = False


class Faults(Network):
    """What goes wrong between a driver and its machines, and with these. For one cluster on `InProcess`.

    A machine is named by its object, its id ("m0") or its address; the driver is "driver", and "*" is everyone.

    Args:
        seed: what is drawn at random follows from it; None: a seed of its own, told by `seed`.
        refuse: called with a sentence where the cluster's system cannot do what is asked for, before NotSupported is
            raised.
    """

    def __init__(self, seed: int | str | None = None, *, refuse: Callable[[str], None] | None = None) -> None:
        self.seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self._refuse = refuse
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._system: InProcess | None = None
        self._cluster: Cluster | None = None
        self._conditions: dict[frozenset[str], _Conditions] = {}
        self._counts: dict[str, int] = {}
        self._wires: dict[Wire, frozenset[str]] = {}
        self._done: list[str] = []
        self._fates: list[tuple[str, int, str]] = []
        self._relay = Relay()

    def __repr__(self) -> str:
        return f"<Faults, seed {self.seed}: {len(self._done)} so far, {len(self._wires)} connections>"

    @property
    def history(self) -> list[str]:
        """What was done, in its order; then what befell single connections, sorted by who connected to whom."""
        with self._lock:
            return [*self._done, *(text for _, _, text in sorted(self._fates))]

    # --- machines

    def kill(self, machine: Machine | str | None = None) -> str:
        """Let a machine vanish as if its power had failed. On `local`, kill its agent, and wait until it is STOPPED.

        One that is still starting there is killed as soon as its agent is known.

        Args:
            machine: which; None: one of the living, drawn by the seed.
        Returns:
            Its id.
        Raises:
            ConfigError: there is no such machine.
        """
        victim = self._victim(machine, "kill")
        self._note(f"kill {victim}")
        if self._system is None:
            self._kill_process(victim)
        else:
            self._system.kill(victim)
        return victim

    def run_out_of_memory(self, machine: Machine | str | None = None, proc: int = 0) -> str:
        """Let a worker end as the kernel ends one for want of memory: its machine stops with the cause `memory`.

        Args:
            machine: as for `kill`.
            proc: which of its workers, from 0.
        Returns:
            The machine's id.
        Raises:
            ConfigError: there is no such machine or worker.
        """
        system = self._in_process("run_out_of_memory")
        victim = self._victim(machine, "memory")
        self._note(f"out of memory on {victim}")
        system.run_out_of_memory(victim, proc)
        return victim

    def preempt(self, machine: Machine | str | None = None, notice: float = 120.0) -> str:
        """Announce that a machine will be taken away, as a cloud does with spot instances, and take it away then.

        The driver hears of it (`Machine.on_preempt`), and services with a method `preempted`.

        Args:
            machine: as for `kill`.
            notice: seconds until then, by the system's clock.
        Returns:
            The machine's id.
        Raises:
            ConfigError: there is no such machine; the notice is less than nothing.
        """
        system = self._in_process("preempt")
        _check_seconds("notice", notice)
        victim = self._victim(machine, "preempt")
        self._note(f"preempt {victim} in {notice:g} s")
        system.preempt(victim, notice)
        return victim

    # --- connections

    def drop(self, machine: Machine | str = EVERYONE, other: Machine | str = EVERYONE) -> None:
        """Cut the connections that are open now between *machine* and *other*. New ones are not hindered."""
        pair = self._pair("drop", machine, other)
        self._note(f"drop {_named(pair)}")
        for wire in self._wires_of(pair):
            wire.cut()

    def partition(
        self, machine: Machine | str = EVERYONE, other: Machine | str = DRIVER, *, silent: bool = False
    ) -> None:
        """Let nothing pass between *machine* and *other* until `heal`.

        Args:
            machine: one side.
            other: the other side.
            silent: bytes are held back and connections hang, as where a cable is pulled, and only timeouts tell;
                else connections are cut, and attempts to connect fail at once, as where a router knows no way.
        Raises:
            ConfigError: there is no such machine; silent, with a turned clock: the timeouts that tell take real time.
        """
        pair = self._pair("partition", machine, other)
        if silent and self._system is not None and self._system.timer is not None:
            raise ConfigError(
                "a silent partition is told by timeouts, which take real time: not with a turned clock",
                hint="leave out silent=True",
            )
        self._note(f"partition {_named(pair)}{' silently' * silent}")
        with self._changed:
            self._of(pair).partition = "silent" if silent else "said"
        for wire in self._wires_of(pair):
            if silent:
                self._relay.hold(wire, True)
            else:
                wire.cut()

    def heal(self, machine: Machine | str = EVERYONE, other: Machine | str = EVERYONE) -> None:
        """End partitions between *machine* and *other*; of everyone: all. What a silent one held back goes on."""
        pair = self._pair("heal", machine, other)
        self._note(f"heal {_named(pair)}")
        with self._changed:
            for healed, conditions in self._conditions.items():
                if _covers(pair, healed):
                    conditions.partition = ""
            self._changed.notify_all()
            wires = [wire for wire, ends in self._wires.items() if not self._met(ends).partition]
        for wire in wires:
            self._relay.hold(wire, False)

    def delay(
        self,
        seconds: float,
        machine: Machine | str = EVERYONE,
        other: Machine | str = EVERYONE,
        *,
        connecting: float = 0.0,
    ) -> None:
        """Let bytes between *machine* and *other* take *seconds* longer each way, in real time; 0: no longer.

        Args:
            seconds: for bytes on connections, open ones too.
            machine: one side.
            other: the other side.
            connecting: seconds more that a new connection takes.
        Raises:
            ConfigError: there is no such machine; the seconds are less than nothing.
        """
        _check_seconds("a delay", seconds)
        _check_seconds("a delay", connecting)
        pair = self._pair("delay", machine, other)
        self._note(f"delay {_named(pair)} by {seconds:g} s" + f", connecting by {connecting:g} s" * bool(connecting))
        with self._changed:
            conditions = self._of(pair)
            conditions.delay, conditions.connecting = seconds, connecting
            for wire, ends in self._wires.items():
                wire.delay = self._met(ends).delay

    def slow(self, machine: Machine | str, seconds: float) -> None:
        """Let *machine* answer *seconds* later whatever it is asked, by whomever; half of that on the way there."""
        self.delay(seconds / 2, machine)

    def flaky(self, probability: float, machine: Machine | str = EVERYONE, other: Machine | str = EVERYONE) -> None:
        """Let each new connection between *machine* and *other* be cut with this probability, after bytes drawn too.

        Args:
            probability: 0 to 1; 0: none any more.
            machine: one side.
            other: the other side.
        Raises:
            ConfigError: there is no such machine; that is no probability.
        """
        if not 0 <= probability <= 1:
            raise ConfigError(f"{probability!r} is no probability", hint="it is from 0 to 1")
        pair = self._pair("flaky", machine, other)
        self._note(f"flaky {_named(pair)}, probability {probability:g}")
        with self._changed:
            self._of(pair).flaky = probability

    def duplicate(self, machine: Machine | str = EVERYONE, other: Machine | str = EVERYONE, *, on: bool = True) -> None:
        """Let each attempt to connect arrive twice: the second one says the same first bytes, and then nothing."""
        pair = self._pair("duplicate", machine, other)
        self._note(f"duplicate {_named(pair)}" if on else f"duplicate {_named(pair)} no more")
        with self._changed:
            self._of(pair).duplicate = on

    def calm(self) -> None:
        """End partitions, delays and all else that is done to connections."""
        with self._changed:
            self._conditions.clear()
            self._changed.notify_all()
            wires = list(self._wires)
        for wire in wires:
            wire.delay = 0.0
            self._relay.hold(wire, False)

    # --- at random

    def strike(self, kinds: Sequence[str] = _STRIKES) -> str:
        """Do one thing of these kinds to living machines; what and to whom, the seed says.

        Args:
            kinds: of "drop", "delay", "partition", "heal", "kill", "memory" and "preempt".
        Returns:
            What was done, as in the history; "" where nobody is left.
        Raises:
            ConfigError: a kind is unknown.
        """
        _check_kinds(kinds)
        living = self._in_process("strike").living
        if not living:
            return ""
        draw = self._draw("strike")
        kind, machine = draw.choice(list(kinds)), draw.choice(living)
        other = draw.choice([DRIVER, *(each for each in living if each != machine)])
        _KINDS[kind](self, machine, other, draw)
        return self._done[-1]

    def storm(self, rate: float, kinds: Sequence[str] = _STRIKES) -> None:
        """Strike again and again while the clock is turned, at moments that the seed says.

        Args:
            rate: strikes per second of the turned clock, on average.
            kinds: as for `strike`.
        Raises:
            ConfigError: the clock is not a turned one: real time repeats nothing; the rate is not above 0.
        """
        timer = self._in_process("storm").timer
        if not isinstance(timer, ManualClock):
            raise ConfigError("a storm needs a clock that is turned", hint="call strike between the steps of the test")
        if not rate > 0:
            raise ConfigError(f"a storm of {rate!r} strikes a second is none", hint="give a rate above 0")
        _check_kinds(kinds)
        moments = self._draw("storm")

        def strike() -> None:
            self.strike(kinds)
            timer.after(moments.expovariate(rate), strike)

        self._note(f"storm of {rate:g} strikes a second")
        timer.after(moments.expovariate(rate), strike)

    # --- what the system and the fixtures call

    def opened(self, system: InProcess) -> None:
        """*system* connects by us."""
        if self._system not in (None, system):
            raise ConfigError("one Faults serves one cluster", hint="make one for each")
        self._system = system

    def watch(self, cluster: Cluster) -> None:
        """*cluster*, on whatever system, is the one that `kill` is about."""
        self._cluster = cluster

    def connect(self, source: str, target: str, locator: str, timeout: float) -> socket.socket:
        """Connect as the conditions between the two allow."""
        ends = frozenset((source, target))
        deadline = time.monotonic() + timeout
        with self._changed:
            conditions = self._met(ends)
            if conditions.connecting:
                self._changed.wait_for(lambda: False, min(conditions.connecting, timeout))
            self._changed.wait_for(lambda: self._met(ends).partition != "silent", deadline - time.monotonic())
            conditions = self._met(ends)
        if conditions.partition == "said":
            # Not "refused", which would prove that nobody listens there any more.
            raise OSError(errno.EHOSTUNREACH, f"there is a partition between {source} and {target}")
        left = deadline - time.monotonic()
        if conditions.partition or left <= 0:
            raise TimeoutError("timed out")
        return self._connected(source, target, locator, left, conditions)

    def close(self) -> None:
        """End all connections."""
        self._relay.close()

    def _connected(
        self, source: str, target: str, locator: str, timeout: float, conditions: _Conditions
    ) -> socket.socket:
        with contextlib.ExitStack() as opened:
            far = opened.enter_context(tcp_connect(locator, timeout))
            twin = opened.enter_context(tcp_connect(locator, timeout)) if conditions.duplicate else None
            ours, near = socket.socketpair()
            wire = Wire(near, far, delay=conditions.delay, left=self._fate(source, target, conditions), twin=twin)
            opened.pop_all()
        ends = frozenset((source, target))
        with self._changed:
            self._wires = {each: between for each, between in self._wires.items() if not each.ended}
            self._wires[wire] = ends
            partition = self._met(ends).partition  # it may have come meanwhile
        self._relay.carry(wire, held=partition == "silent")
        if partition == "said":
            wire.cut()
        return ours

    def _fate(self, source: str, target: str, conditions: _Conditions) -> int | None:
        """After how many bytes a new connection is to be cut, if at all."""
        way = f"{source} to {target}"
        with self._lock:
            number = self._counts[way] = self._counts.get(way, 0) + 1
        draw = random.Random(f"{self.seed}/{way}/{number}")
        if draw.random() >= conditions.flaky:
            return None
        left = draw.randrange(1, _FLAKY_BYTES)
        with self._lock:
            self._fates.append((way, number, f"{way}, connection {number}: cut after {left} bytes"))
        return left

    # --- names and draws

    def _draw(self, what: str) -> random.Random:
        with self._lock:
            number = self._counts[what] = self._counts.get(what, 0) + 1
        return random.Random(f"{self.seed}/{what}/{number}")

    def _victim(self, machine: Machine | str | None, what: str) -> str:
        if machine is not None:
            return self._name(machine)
        living = self._living()
        if not living:
            raise ConfigError(f"there is no machine to {what}")
        return self._draw(what).choice(living)

    def _living(self) -> list[str]:
        if self._system is not None:
            return self._system.living
        return [machine.id for machine in self._cluster.machines] if self._cluster is not None else []

    def _name(self, machine: Machine | str) -> str:
        name = machine.addr if isinstance(machine, Machine) else machine
        if name in (DRIVER, EVERYONE):
            return name
        locator, _, id = name.rpartition("/")
        if self._system is not None:
            if locator not in ("", self._system.locator(id)):
                raise ConfigError(f"machine {name} is not of this cluster")
        elif id not in self._living():
            raise ConfigError(f"there is no machine {id!r}", hint=f"there are {', '.join(self._living()) or 'none'}")
        return id

    def _pair(self, what: str, machine: Machine | str, other: Machine | str) -> frozenset[str]:
        self._in_process(what)
        pair = frozenset((self._name(machine), self._name(other)))
        if len(pair) == 1 and EVERYONE not in pair:
            raise ConfigError(f"{what} takes two parties, not {next(iter(pair))!r} twice")
        return pair

    def _in_process(self, what: str) -> InProcess:
        if self._system is None:
            sentence = f"{what} needs machines in process" if self._cluster else f"{what} needs a cluster that uses it"
            if self._refuse is not None:
                self._refuse(sentence)
            raise NotSupported(sentence, hint="give these faults to bigm.start(InProcess(network=faults))")
        return self._system

    def _kill_process(self, machine: str) -> None:
        assert self._cluster is not None
        victim = next(each for each in self._cluster.machines if each.id == machine)
        with victim._board:  # whose agent answers under its name, or who has ended
            victim._board.wait_for(lambda: victim._phase >= Phase.SPAWNING)
        try:
            os.kill(victim._agent.call("Agent.info").pid, signal.SIGKILL)
        except (BigmError, ProcessLookupError):
            if victim.state is not State.STOPPED:
                raise
        with contextlib.suppress(BigmError):  # why it stopped is for those who call it
            victim.wait(State.STOPPED, _KILL)

    def _note(self, text: str) -> None:
        with self._lock:
            self._done.append(text)

    # --- conditions; under the lock

    def _of(self, pair: frozenset[str]) -> _Conditions:
        return self._conditions.setdefault(pair, _Conditions())

    def _met(self, ends: frozenset[str]) -> _Conditions:
        """What a connection between *ends* meets, all that applies to it taken together."""
        met = [conditions for pair, conditions in self._conditions.items() if _covers(pair, ends)]
        partitions = {conditions.partition for conditions in met} - {""}
        return _Conditions(
            partition="said" if "said" in partitions else "silent" if partitions else "",
            connecting=sum(conditions.connecting for conditions in met),
            delay=sum(conditions.delay for conditions in met),
            flaky=max((conditions.flaky for conditions in met), default=0.0),
            duplicate=any(conditions.duplicate for conditions in met),
        )

    def _wires_of(self, pair: frozenset[str]) -> list[Wire]:
        with self._lock:
            return [wire for wire, ends in self._wires.items() if _covers(pair, ends)]


def _covers(pair: frozenset[str], ends: frozenset[str]) -> bool:
    """Whether what is said of *pair*, which may hold everyone, is said of *ends*."""
    named = pair - {EVERYONE}
    return named <= ends if EVERYONE in pair else pair == ends


def _named(pair: frozenset[str]) -> str:
    names = sorted(pair - {DRIVER, EVERYONE}) + sorted(pair & {DRIVER, EVERYONE})
    return " and ".join({EVERYONE: "everyone"}.get(name, name) for name in names)


def _check_kinds(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if unknown or not kinds:
        raise ConfigError(f"there is no fault {', '.join(map(repr, unknown))}", hint=f"there are {', '.join(_KINDS)}")


def _check_seconds(what: str, seconds: float) -> None:
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{what} of {seconds!r} s is none", hint="it is 0 or more")


_KINDS: dict[str, Callable[[Faults, str, str, random.Random], object]] = {
    "drop": lambda faults, machine, other, draw: faults.drop(machine),
    "delay": lambda faults, machine, other, draw: faults.delay(round(draw.uniform(0.0, 0.05), 3), machine),
    "partition": lambda faults, machine, other, draw: faults.partition(machine, other),
    "heal": lambda faults, machine, other, draw: faults.heal(),
    "kill": lambda faults, machine, other, draw: faults.kill(machine),
    "memory": lambda faults, machine, other, draw: faults.run_out_of_memory(machine),
    "preempt": lambda faults, machine, other, draw: faults.preempt(machine),
}
