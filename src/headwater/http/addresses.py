"""Which addresses webhooks may reach: pure decisions on IP addresses, however they are written or embedded.

Only addresses of the public Internet are, by the registries of special-purpose addresses (IANA; RFC 6890). IPv6 is
judged by what is allowed (2000::/3) rather than by what is not. An IPv4 address inside of an IPv6 one (mapped, NAT64)
is judged as the address that is really reached; 6to4 and Teredo, which tunnel to any address, are refused.
"""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import msgspec

_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class EgressRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where webhooks may go beside the public Internet, and over https.

    `allow` are networks such as "10.0.0.0/8"; `http` permits URLs without TLS.
    """

    allow: tuple[str, ...] = ()
    http: bool = False

    def __post_init__(self) -> None:
        for network in self.allow:
            ipaddress.ip_network(network)

    def permits(self, address: str) -> bool:
        """Whether an address, as the resolver writes it, may be connected to."""
        try:
            reached = _reached(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            return False
        return _is_public(reached) or any(reached in ipaddress.ip_network(network) for network in self.allow)


def literal_address(host: str) -> str | None:
    """The address that a host is, in any form that resolvers read: dotted, decimal, octal, hexadecimal, IPv6."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(IPv4Address(socket.inet_aton(host)))
    except OSError:
        return None


def _reached(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
