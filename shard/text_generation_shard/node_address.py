"""Which of this machine's addresses and interfaces lead to the other nodes: the way to rank 0."""

import fcntl
import socket
import struct

from text_generation_shard.config import RankInfo
from text_generation_shard.errors import RendezvousError

_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
_ADDRESS_OFFSET = 20  # of the address in `struct ifreq`, behind the name, family and port


def node_address(info: RankInfo) -> str:
    """This machine's IPv4 address as rank 0's sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((info.master_addr, info.master_port))  # sends nothing
        except OSError as error:
            raise RendezvousError(f"MASTER_ADDR {info.master_addr}: {error.strerror}") from error
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The name of the interface that has this IPv4 address; None if none says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address
                continue
            found = answer[_ADDRESS_OFFSET : _ADDRESS_OFFSET + 4]
            if socket.inet_ntoa(found) == address:
                return name
    return None
