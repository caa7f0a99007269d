"""Handshakes as fast as a few clients can make them: connect, shake hands, leave."""

import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .certificates import Certificates
from .fleet import SetupError
from .kernel import cpu_ns
from .variants import Variant

CLIENTS = 4
TIMEOUT_SECONDS = 10
PING = b"*1\r\n$4\r\nPING\r\n"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass
class Sample:
    """One run: CPU time of the proxy in microseconds per handshake, and handshakes per second of the clock."""

    proxy_us: float
    per_second: float

    @property
    def per_cpu_second(self) -> float:
        return 1e6 / self.proxy_us


def context(files: Certificates, version: str | None = None) -> ssl.SSLContext:
    """A client's context that trusts the benchmark's authority, for one version of TLS or for both."""
    made = ssl.create_default_context(cafile=str(files.authority))
    if version:
        made.minimum_version = made.maximum_version = VERSIONS[version]
    return made


def measure(variant: Variant, tls: ssl.SSLContext, resumed: bool, count: int) -> Sample:
    """Makes `count` handshakes, from a few threads at once. Raises SetupError if one is not of the wanted kind."""
    session = _session(variant.port, tls) if resumed else None
    shares = [count // CLIENTS + (place < count % CLIENTS) for place in range(CLIENTS)]
    failed = threading.Event()  # the others need not go on

    def shake(share: int) -> None:
        try:
            for _ in range(share):
                if failed.is_set():
                    return
                with _connect(variant.port, tls, session) as client:
                    if client.session_reused is not resumed:
                        raise SetupError(f"{variant.name} did not {'resume a' if resumed else 'make a full'} handshake")
        except BaseException:
            failed.set()
            raise

    before, since = cpu_ns(variant.proxy.pid), time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(shake, shares))
    seconds = time.monotonic() - since
    time.sleep(0.05)  # the last ones' ends
    return Sample((cpu_ns(variant.proxy.pid) - before) / count / 1000, count / seconds)


def _connect(port: int, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(raw, server_hostname="localhost", session=session)
    except BaseException:
        raw.close()
        raise


def _session(port: int, tls: ssl.SSLContext) -> ssl.SSLSession:
    """A session that can be resumed. In TLS 1.3 its ticket comes behind the handshake, here with an answer."""
    with _connect(port, tls) as client:
        client.sendall(PING)
        client.recv(64)
        return client.session
