"""The network that instances of one cluster are in, who is let in there, and how the driver gets there.

Machines dial one another at private addresses: within a VPC a public one would lead out and in again, where the
security group no longer knows whom it comes from. The driver dials the public ones, the private ones where a VPN leads
there, or through a command.

The port of agents is open to the driver's own address alone. A computer that moves, to another Wi-Fi or another line,
has a new one: when an instance does not answer a dial, one thread looks which it is now, and opens the port to it.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Mapping

from bigm.bootstrap.piped import PREFIX, Commands
from bigm.errors import BigmError, ConfigError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.address import address_towards, ask_service, parse_address
from bigm.systems.ec2.labels import Labels
from bigm.systems.ec2.options import PORT, WAYS, Options
from bigm.systems.ec2.rules import Rule, allow, lets_in, revoke, rules_of
from bigm.systems.ec2.vpc import blocks, check_groups, find_group, find_subnets, first_host

logger = logging.getLogger("bigm.ec2")

_SILENCE = 2.0  # seconds without an answer after which our address is looked at; TCP asks again after 3 and 7
_PAUSE = 15.0  # seconds between two such looks
_SETTLES = 5.0  # seconds for a look that goes on when the cluster ends
_ADDRESSES = 4  # that the port is open to at a time; a computer that moves on leaves the oldest behind
_PLACEHOLDER = re.compile(r"%(.?)")


class Network:
    """The network of one cluster. May be used from several threads.

    Args:
        account: whose.
        options: of the system.
        labels: of the cluster.
    Raises:
        ConfigError: the way to instances is no way. Nothing is asked before `open`.
    """

    def __init__(self, account: Account, options: Options, labels: Labels) -> None:
        check_way(options)
        self._account = account
        self._options = options
        self._labels = labels
        self._opening = threading.Lock()  # held while requests are sent that change what is open
        self._lock = threading.Lock()  # held for a moment
        self._vpc = ""
        self._subnets: dict[str, str] = {}
        self._groups: tuple[str, ...] = ()
        self._expires = 0.0
        self._rules: list[Rule] = []  # those that let us in, the newest last
        self._looked = float("-inf")  # when our address was last looked at
        self._look: threading.Thread | None = None
        self._explanation = ""
        self._closed = False
        self._commands: Commands | None = None

    def __repr__(self) -> str:
        open_to = ", ".join(rule.address for rule in self._rules) or "nobody"
        return f"<Network {self._vpc}: {len(self._subnets)} subnets, open to {open_to}>"

    @property
    def subnets(self) -> Mapping[str, str]:
        """The zone of each subnet that instances may be in, by its id; one in each zone. After `open`."""
        return self._subnets

    @property
    def groups(self) -> tuple[str, ...]:
        """Ids of the security groups that instances are in. After `open`."""
        return self._groups

    def open(self, expires: float) -> None:
        """Find subnets and security group, make the group where there is none, and let the driver in. Idempotent.

        Args:
            expires: when the machines of a launch have ended, in seconds since 1970; 0: never by themselves.
        Raises:
            ConfigError: there is no network, or the options name none.
            SystemFault: AWS would not, or our own address is not to be found out.
        """
        with self._opening:
            if not self._subnets:
                self._subnets, self._vpc = find_subnets(self._account, self._options)
            if self._options.security_groups:
                self._groups = self._groups or check_groups(self._account, self._options, self._vpc)
                return
            if not self._groups:
                self._groups = (find_group(self._account, self._vpc, self._labels),)
            if not self._rules or (self._expires and not 0 < expires <= self._expires):
                former, self._rules = self._rules, []
                self._expires = expires and max(expires, 2 * expires - time.time())  # later launches need it for longer
                for address in self._own_addresses():
                    self._let_in(address)
                revoke(self._account, former)

    def address(self, id: str, private: str, public: str) -> str:
        """Where driver and keeper dial an instance: "host:port", or a command behind a "|".

        Args:
            id: of the instance.
            private: its private address.
            public: its public address, or "".
        """
        if self._options.connect == "ssh":
            return PREFIX + fill_in(self._options.proxy_command, id, private)
        host = public if self._options.connect == "public" else private
        return f"{host}:{PORT}" if host else ""

    def connect(self, address: str, timeout: float) -> socket.socket:
        """Connect to what `address` has told.

        Args:
            timeout: seconds.
        Raises:
            OSError: refused, unreachable or too late, with what was found out about the reason.
        """
        if address.startswith(PREFIX):
            return self._through().dial(address[len(PREFIX) :], timeout)
        host, _, port = address.rpartition(":")
        if not host:
            raise ConnectionError(f"the instance has no {self._options.connect} address")
        return self._dial(host, int(port), timeout)

    def said(self, address: str) -> str:
        """What is known of why an address is not reached, for messages; "" when nothing is."""
        if address.startswith(PREFIX):
            return self._through().said(address[len(PREFIX) :])
        return self._explanation

    def close(self) -> None:
        """Let nobody in any more. Idempotent; a rule that stays is only told of: `bigm gc` finds it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            look, opened = self._look, bool(self._groups) and not self._options.security_groups
        if look is not None:
            look.join(_SETTLES)
        if self._commands is not None:
            self._commands.close()
        if not opened:
            return
        try:  # by their tags: the answer to a request that made one may have been lost
            found = [*self._rules, *rules_of(self._account, self._labels.cluster)]  # which may not know the newest yet
            revoke(self._account, {rule.id: rule for rule in found}.values())
        except BigmError as error:
            logger.warning("a rule of the security group %s stays: %s", ", ".join(self._groups), error)

    # --- who is let in

    def _own_addresses(self) -> list[str]:
        options = self._options
        if options.own_address:
            return [parse_address(options.own_address)]
        if options.connect == "public":
            return [ask_service(options.address_service)]
        if options.connect == "private":
            return [address_towards(first_host(self._account, next(iter(self._subnets))))]
        return blocks(self._account, self._vpc)  # a bastion's own, or of whatever the command goes through there

    def _let_in(self, address: str) -> None:
        tags = self._labels.tags(expires=self._expires)
        self._rules.append(allow(self._account, self._groups[0], address, tags))

    def _look_soon(self) -> None:
        """Have our address looked at, unless that was done just now."""
        with self._lock:
            if self._closed or self._look is not None or time.monotonic() < self._looked + _PAUSE:
                return
            self._look = threading.Thread(target=self._look_again, name="bigm-ec2-address", daemon=True)
            try:
                self._look.start()
            except RuntimeError:  # the interpreter is shutting down
                self._look = None

    def _look_again(self) -> None:
        """Let our address in where it is not, and have words for why instances do not answer where it is."""
        explanation = ""
        try:
            with self._opening:
                explanation = self._explain() if self._options.security_groups else self._mend()
        except BigmError as error:
            explanation = str(error)
        finally:  # whatever happened, the next one may look
            with self._lock:
                self._explanation, self._looked, self._look = explanation, time.monotonic(), None

    def _mend(self) -> str:
        there = {rule.id for rule in rules_of(self._account, self._labels.cluster)}
        self._rules = [rule for rule in self._rules if rule.id in there]
        let_in = [rule.address for rule in self._rules]
        addresses = self._own_addresses()
        new = [address for address in addresses if address not in let_in and not self._closed]
        for address in new:
            self._let_in(address)
            logger.info("port %d of machines is open to %s now", PORT, address)
        left, self._rules = self._rules[:-_ADDRESSES], self._rules[-_ADDRESSES:]
        revoke(self._account, left)
        if new:
            return f"port {PORT} has just been opened to this computer's address {', '.join(new)}"
        reasons = "perhaps the network here lets nothing out to it"
        if self._options.connect == "public":
            reasons += ", or the subnet has no way to the internet"
        return f"port {PORT} is open to {', '.join(addresses)}; {reasons}"

    def _explain(self) -> str:
        """Whether security groups that are the user's own let us in."""
        groups = ", ".join(self._groups)
        addresses = self._own_addresses()
        filters = [{"Name": "group-id", "Values": list(self._groups)}]
        rules = list(self._account.pages("describe_security_group_rules", "SecurityGroupRules", Filters=filters))
        shut_out = [address for address in addresses if not lets_in(rules, address)]
        if shut_out:
            return f"no rule of {groups} (ec2.security_groups) lets {', '.join(shut_out)} in on port {PORT}"
        return f"{groups} let {', '.join(addresses)} in; perhaps the network here lets nothing out to port {PORT}"

    # --- the way

    def _through(self) -> Commands:
        with self._lock:
            if self._commands is None:
                self._commands = Commands()
            return self._commands

    def _dial(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect_ex((host, port))
            if not _is_settled(sock, min(_SILENCE, timeout)):
                self._look_soon()  # this attempt goes on meanwhile
                if not _is_settled(sock, timeout - _SILENCE):
                    raise TimeoutError("; ".join(filter(None, ("no answer in time", self._explanation))))
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            sock.settimeout(timeout)
        except BaseException:
            sock.close()
            raise
        return sock


def _is_settled(sock: socket.socket, timeout: float) -> bool:
    """Whether a connection is made, or refused, within *timeout* seconds."""
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(max(0.0, timeout) * 1000))


def check_way(options: Options) -> None:
    """See that the options say how instances are reached.

    Raises:
        ConfigError: they do not.
    """
    if options.connect not in WAYS:
        raise ConfigError(f"ec2.connect must be {', '.join(WAYS[:-1])} or {WAYS[-1]}, not {options.connect!r}")
    if options.own_address:
        parse_address(options.own_address)
    if options.connect != "ssh":
        return
    if not options.proxy_command.strip():
        raise ConfigError(
            "ec2.connect is ssh, and there is no ec2.proxy_command",
            hint='name one, as in "ssh -W %h:%p bastion.example.org"',
        )
    fill_in(options.proxy_command, "i-0", "10.0.0.1")


def fill_in(command: str, id: str, private: str) -> str:
    """A proxy command for one instance: %h is its private address, %n its id, %p the port, %% a percent sign.

    Raises:
        ConfigError: another letter stands behind a percent sign.
    """
    known = {"h": private, "n": id, "p": str(PORT), "%": "%"}

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f"ec2.proxy_command: {match[0]!r} means nothing",
                hint="%h is the instance's private address, %n its id, %p the port, and %% a percent sign",
            )
        return known[match[1]]

    return _PLACEHOLDER.sub(value, command)
