"""The tests of crashes (crash_cases.py) with MariaDB and MySQL."""

import pytest
from crash_cases import *
from crash_cases import share
from crash_engines import Mysql
from mysqlserver import PRODUCTS


@pytest.fixture(params=PRODUCTS[:2])
def engine(request):
    return Mysql(request.param)


@pytest.fixture(scope="module", params=PRODUCTS)
def shared(request):
    with share(Mysql(request.param)) as engine:
        yield engine


@pytest.fixture(scope="module")
def of_version(shared):
    return shared
