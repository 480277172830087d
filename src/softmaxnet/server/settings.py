"""What a server may be told, with defaults that are safe on a machine that others can reach."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from softmaxnet.errors import ResourceError, UsageError

__all__ = ["Settings", "Token", "is_loopback"]

MIB = 2**20
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes
    ----------
    model : str
        Path of the model file; its stem is the model's name.
    host, port : str, int
        Where to listen; port 0 takes one that is free.
    token_file : str or None
        A file with the token that requests must carry (``Authorization: Bearer TOKEN``).
    no_auth : bool
        Other machines may ask without a token.
    allowed_hosts : tuple of str
        Names that the header ``Host`` may have, beside those of this machine's loopback and ``host``.
    max_body, max_rows : int
        Bytes of a body (also after decompression) and rows of a request.
    concurrency : int
        Requests that are answered or wait for it; more are refused with 503.
    connections : int
        Open connections.
    header_seconds, body_seconds, compute_seconds : float
        From the first byte to the end of the headers; until the end of the body; until the answer is computed.
    drain_seconds, drain_delay : float
        After SIGTERM: how long running requests may take, and how long new ones are taken while ``ready`` says no.
    workers : int
        Processes.
    log : "none", "text" or "json"
        A line a request on standard error.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = None
    no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_body: int = 8 * MIB
    max_rows: int = 10_000
    concurrency: int = 64
    connections: int = 1024
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    compute_seconds: float = 30.0
    drain_seconds: float = 30.0
    drain_delay: float = 0.0
    workers: int = 1
    log: str = "none"

    def check(self) -> None:
        """Raise ``UsageError`` where the server would be open to others without a token."""
        if not is_loopback(self.host) and self.token_file is None and not self.no_auth:
            raise UsageError(
                f"{self.host} can be reached from other machines, and there is no token.",
                hint="Give --token-file FILE, or listen on 127.0.0.1 behind a proxy that checks who asks; "
                "--insecure-no-auth lets anybody in.",
            )
        if not 0 <= self.port < 2**16:
            raise UsageError(f"the port must be a number from 0 to 65535. Got {self.port} instead")

    def hosts(self) -> frozenset[str] | None:
        """Return the names that a request's ``Host`` may have, in lower case; None where any may be.

        Any may be where other machines ask with a token: that, and not a name, is what a hostile page lacks.

        Examples
        --------
        >>> sorted(Settings("m").hosts())
        ['127.0.0.1', '[::1]', 'localhost']
        """
        if not is_loopback(self.host) and not self.allowed_hosts:
            return None
        own = {"localhost", "127.0.0.1", "[::1]", f"[{self.host}]" if ":" in self.host else self.host.lower()}
        return frozenset(own - {"0.0.0.0", "[::]"} | {name.lower() for name in self.allowed_hosts})


@dataclass(frozen=True, repr=False)
class Token:
    """A secret, compared in constant time; it is never shown."""

    value: bytes

    @classmethod
    def read(cls, path: str) -> Token:
        """Return the token that a file holds, white space around it aside."""
        try:
            value = Path(path).read_bytes().strip()
        except OSError as error:
            raise ResourceError(f"the token cannot be read: {error.strerror or error}", file=path) from None
        if len(value) < SHORTEST_TOKEN or not all(33 <= byte < 127 for byte in value):
            raise UsageError(
                f"a token is one line of at least {SHORTEST_TOKEN} letters, digits and signs.",
                file=path,
                hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe())'.",
            )
        return cls(value)

    def matches(self, header: bytes | None) -> bool:
        """Say whether a header ``Authorization`` carries it."""
        kind, _, given = (header or b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.value)


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address or a name.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        raise UsageError(f"there is no address for the host {host!r}") from None
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
