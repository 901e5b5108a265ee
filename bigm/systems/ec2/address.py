"""From which address this computer is seen: what the port of machines is opened to, and nothing else is.

Its public address is known to nobody here: a service on the internet is asked. Towards private addresses it is that of
the interface by which they are reached, which the kernel tells without sending anything.
"""

from __future__ import annotations

import ipaddress
import socket

from bigm.errors import ConfigError, TransientError

_CONNECT, _READ = 3.0, 3.0  # seconds for the service to answer
_SHOWN = 60  # characters of a wrong answer


def parse_address(text: str, subject: str = "ec2.own_address") -> str:
    """The network that *text* names, as AWS writes it: "203.0.113.7/32".

    Raises:
        ConfigError: it names none.
    """
    try:
        return str(ipaddress.IPv4Network(text.strip(), strict=False))
    except ValueError:
        raise ConfigError(
            f"{subject}: {text[:_SHOWN]!r} is no IPv4 address", hint="write as in 203.0.113.7 or 203.0.113.0/24"
        ) from None


def ask_service(url: str) -> str:
    """This computer's public address, as *url* tells it: "203.0.113.7/32".

    No proxy of the environment is used, as machines are not dialled through it either.

    Raises:
        TransientError: nobody answers, or with something else.
    """
    import requests  # 100 ms that programs on other systems need not pay

    direct = {"http": "", "https": "", "all": ""}
    try:
        answer = requests.get(url, timeout=(_CONNECT, _READ), proxies=direct)
        answer.raise_for_status()
        return f"{ipaddress.IPv4Address(answer.text.strip())}/32"  # never a whole network, whatever it says
    except ValueError:
        why = f"it answered {answer.text.strip()[:_SHOWN]!r}"
    except requests.Timeout:
        why = f"it did not answer within {_CONNECT + _READ:.0f} s"
    except requests.ConnectionError:
        why = "it cannot be reached"
    except requests.RequestException as error:
        why = str(error)
    raise TransientError(
        f"cannot find out this computer's public address from {url}: {why}",
        hint="say it with ec2.own_address, or name another service with ec2.address_service; where only a proxy leads "
        "out, machines are reached with ec2.connect: private or ssh",
    )


def address_towards(host: str) -> str:
    """The address that this computer has for *host*: "10.0.0.5/32".

    Raises:
        TransientError: there is no way to it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing: the kernel only chooses a way
            return parse_address(probe.getsockname()[0])
        except OSError as error:
            raise TransientError(
                f"there is no way to {host} from this computer: {error.strerror}",
                hint="ec2.connect: private needs one, as a VPN makes; ec2.own_address tells the address it gives",
            ) from error
