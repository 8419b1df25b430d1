"""Drivers of MySQL and MariaDB that look for everything their sessions have after every statement, while the capacity
changes.

Both products together last SCALEPOINT_STORM_SECONDS (a minute), and half as long with a standby. No client may see an error;
what was acknowledged must be there.
"""

import json
import os
import pathlib
import subprocess
import threading
import time

import mysqlkeeper
import pytest
from mysqlkeeper import Keeper
from mysqlserver import PRODUCTS

SECONDS = float(os.environ.get("SCALEPOINT_STORM_SECONDS", "60")) / 2
EACH = 4
CAPACITIES = (4, 2, 8, 16, 1, 2, 16, 1)
#: Of the Python in SCALEPOINT_TEST_PYTHON_CONNECTOR8.
OLD_DRIVER = "connector_c"


def change_capacity(server, end, reports):
    while (begun := time.time()) < end:
        reports.append(server.scale(CAPACITIES[len(reports) % len(CAPACITIES)], exits=(0, 3)))
        time.sleep(max(0, begun + 1 - time.time()))


def beside(numbers, where, end):
    """The keepers of another Python; a function that waits for what they say."""
    task = {"driver": OLD_DRIVER, "numbers": numbers, "where": where, "end": end}
    process = subprocess.Popen(
        [os.environ["SCALEPOINT_TEST_PYTHON_CONNECTOR8"], mysqlkeeper.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(mysqlkeeper.__file__).parent,
    )
    process.stdin.write(json.dumps(task))
    process.stdin.close()
    assert process.stdout.readline() == "ready\n"

    def wait():
        said = process.stdout.read()
        assert process.wait() == 0, said
        answer = json.loads(said)
        return {int(number): rounds for number, rounds in answer["rounds"].items()}, answer["failures"]

    return wait


@pytest.mark.parametrize("product", PRODUCTS[:2])
@pytest.mark.parametrize("handover", ["restart", "standby"])
def test_sessions_keep_what_they_have(serve_mysql, handover, product):
    server = serve_mysql(product, memory="1GiB", handover=handover)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE kept (id int AUTO_INCREMENT PRIMARY KEY, keeper int, round int, UNIQUE KEY (keeper, round))"
        )
        cursor.execute("CREATE USER keeper IDENTIFIED BY 'keeper'")
        cursor.execute("GRANT ALL ON app.* TO keeper")
    where = {"host": "localhost", "port": server.port, "user": "keeper", "password": "keeper"}
    where |= {"database": "app", "ca": str(server.ca)}
    keepers = [
        Keeper(driver, number, where)
        for number, driver in enumerate(name for name in mysqlkeeper.DRIVERS for _ in range(EACH))
    ]
    end = time.time() + (SECONDS / 2 if handover == "standby" else SECONDS)
    others = beside([100 + number for number in range(EACH)], where, end)
    reports = []
    changer = threading.Thread(target=change_capacity, args=[server, end, reports])
    changer.start()
    rounds, failures = mysqlkeeper.keep(keepers, end)
    changer.join()
    other_rounds, other_failures = others()
    rounds |= other_rounds
    failures += other_failures
    assert not failures, f"{len(failures)} of {len(rounds)}:\n{''.join(failures[:3])}\n{server.log()}"
    assert len(reports) >= 2
    assert {report["outcome"] for report in reports} == {"scaled"}, reports
    if handover == "standby":
        # Under load one or the other may have had to be made by a restart.
        assert server.log_path.read_text(errors="replace").count("promoted") > len(reports) // 2
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT keeper, COUNT(*), MAX(round) FROM kept GROUP BY 1")
        kept = {keeper: (count, last) for keeper, count, last in cursor.fetchall()}
    assert kept == {number: (made, made) for number, made in rounds.items()}
    for keeper in keepers:
        keeper.client.close()
    stalls = sorted(report["stall_ms"] for report in reports)
    middle = stalls[len(stalls) // 2]
    print(f"{len(reports)} changes, stall {middle} ms in the middle, {stalls[-1]} at most; {sum(rounds.values())} rounds")
