"""Certificates of one benchmark, made with openssl: an authority, and a certificate for localhost by it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from .fleet import SetupError
from .variants import program

KEYS = {
    "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "rsa": ["-newkey", "rsa:2048"],
}


@dataclass
class Certificates:
    """PEM files: the authority, the chain and its key, and those two in one file."""

    authority: Path
    chain: Path
    key: Path
    both: Path


def make(folder: Path, kind: str) -> Certificates:
    """`kind`: one of KEYS, for the authority and the certificate."""
    authority, authority_key = folder / "ca.crt", folder / "ca.key"
    chain, key, both = folder / "tls.crt", folder / "tls.key", folder / "tls.pem"
    _request(kind, authority_key, authority, "benchmark authority", ["basicConstraints=critical,CA:TRUE"])
    names = ["subjectAltName=DNS:localhost,IP:127.0.0.1", "basicConstraints=CA:FALSE"]
    _request(kind, key, chain, "localhost", names, ["-CA", authority, "-CAkey", authority_key])
    both.write_text(chain.read_text() + key.read_text())
    return Certificates(authority, chain, key, both)


def _request(kind: str, key: Path, out: Path, name: str, extensions: list[str], issuer: list = ()) -> None:
    argv = [program("openssl"), "req", "-x509", *KEYS[kind], "-noenc", "-days", 2, "-subj", f"/CN={name}"]
    argv += ["-keyout", key, "-out", out, *issuer]
    for extension in extensions:
        argv += ["-addext", extension]
    done = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"openssl made no certificate:\n{done.stderr[-2000:]}")
