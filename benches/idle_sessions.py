#!/usr/bin/env python3
"""What an idle session costs the router: the growth of its memory from 1,000 to 9,000 sessions, for each of them.

    SCALEPOINT_BIN=target/release/scalepoint "$SCALEPOINT_TEST_PYTHON" benches/idle_sessions.py [--tls] [--sessions 9000]

The clients are in this process and the router in another, because the limit of open files is a process's. The database has
50 connections, so nearly all sessions are parked.
"""

import argparse
import functools
import hashlib
import pathlib
import re
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "drivers"))

from conftest import Server, running, wait_until
from rawpg import Raw

FIRST = 1000


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tls", action="store_true")
    options.add_argument("--sessions", type=int, default=9000)
    options = options.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # All clients log in as one account, whose salt is the same: this is the costly half of each log in.
    hashlib.pbkdf2_hmac = functools.cache(hashlib.pbkdf2_hmac)
    cluster = "park_after_ms = 200\nfull_wait_ms = 60000"
    with running(Server("15", cluster=cluster, parameters={"max_connections": "50"}, memory="512MiB")) as server:
        ca = str(server.ca) if options.tls else None
        login = {"user": "master", "password": server.password, "dbname": server.database, "ca": ca}
        clients, measured = [], []
        for target in (FIRST, options.sessions):
            while len(clients) < target:
                client = Raw(host="127.0.0.1", port=server.port, **login)
                client.message("Q", b"SELECT 1\0")
                while client.read()[0] != "Z":
                    pass
                clients.append(client)
            wait_until(lambda: server.metrics()['scalepoint_sessions{cluster="test",state="parked"}'] >= target - 5, "parked", 120)
            # What the log ins took goes back to the system a little later.
            time.sleep(3)
            measured.append(resident(server.process.pid))
        first, last = measured
        each = (last - first) / (options.sessions - FIRST)
        kind = "TLS" if options.tls else "plain"
        print(f"{kind}: {first} KiB with {FIRST} sessions, {last} KiB with {options.sessions}: {each:.2f} KiB each")
        for client in clients:
            client.socket.close()


main()
