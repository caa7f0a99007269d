"""Where to connect, and how to print: the last two arguments are HOST PORT."""

import faulthandler
import os
import sys

HOST, PORT = sys.argv[-2], int(sys.argv[-1])

# With these files the connection is made with TLS.
TLS = {}
if "TLS_CA" in os.environ:
    TLS = {
        "ssl": True,
        "ssl_ca_certs": os.environ["TLS_CA"],
        "ssl_certfile": os.environ["TLS_CERT"],
        "ssl_keyfile": os.environ["TLS_KEY"],
    }

# Older servers have one database in a cluster. The program then uses it in place of each other one.
DATABASES = "ONE_DATABASE" not in os.environ


def database(number):
    return number if DATABASES else 0


# A run that hangs is a failed run: it ends with a traceback that says where.
faulthandler.dump_traceback_later(100, exit=True)


def say(label, value=None):
    """One line of the transcript; sets and dictionaries in one order."""
    print(label, shown(value), flush=True)


def shown(value):
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(shown(item) for item in value)) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{shown(k)}: {shown(v)}" for k, v in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    return repr(value)


def failure(call, *arguments, **options):
    """The exception that the call must end in."""
    try:
        return ["unexpected", call(*arguments, **options)]
    except Exception as error:
        return error
