"""Which addresses are on the internet, and which are somebody's own (rule R9).

An IPv4 address can hide in an IPv6 address in five ways; a gateway on the way would unwrap it, so
it is unwrapped here, and every address found must be public.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

__all__ = ["is_public"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by their numbers and yet not: Azure's agent; the blocks that `is_global` of one or the
# other Python version forgets.
_DENIED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "224.0.0.0/3",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/9",
        "ff00::/8",
    )
)
_COMPATIBLE = ipaddress.ip_network("::/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def is_public(text: str) -> bool:
    """Tell whether `text`, an IP address, and all that hide in it are on the internet."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if "%" in text:
        return False  # A scope means the link.
    hidden = list(_hidden(address))
    if any(not _is_global(one) for one in hidden):
        return False
    # These prefixes are not public by themselves, but what is in them was looked at.
    if hidden and isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped is None and address not in _COMPATIBLE and _is_global(address)
    return _is_global(address)


def _is_global(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        return True  # To Python it is reserved; what is in it was looked at.
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _DENIED if network.version == address.version)


def _hidden(address: Address) -> Iterator[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return
    number = int(address)
    low = ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None or address in _COMPATIBLE or address in _NAT64:
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (number >> 32) & 0xFFFF_FFFF in _ISATAP:
        yield low
