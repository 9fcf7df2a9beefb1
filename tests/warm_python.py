"""A Python whose processes begin with everything imported, for tests that need processes.

Importing the SDK takes longer than most runs do that need it, and the tests start some hundreds
of them. So one process imports everything once, and forks when `python`, `pytest` or `llmcost` of
`warm_bin()` is started: that program hands over its arguments, environment and open files, passes
signals on, and ends as the fork does. It stands also for the Python of the children that
`multiprocessing` spawns. What loads which module when is tested with `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import gettext
import inspect
import marshal
import os
import pkgutil
import runpy
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module, metadata
from itertools import chain
from multiprocessing import spawn
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

# It is started so often that it takes the C modules: `socket` and `os` load what doubles it.
SCRIPT = """#!{python} -IS
import marshal, posix as os, sys
import _signal as signal, _socket as socket
def handed_on(number):
    try:
        return os.get_inheritable(number)
    except OSError:  # by which the numbers are listed
        return False
name = sys.argv[0].rpartition("/")[2]
if name == "python" and sys.argv[1][:2] not in ("-u", "-c", "-m") and sys.argv[1][0] == "-":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
line = socket.socket(socket.AF_UNIX)
line.connect({path!r})
numbers = sorted(set((0, 1, 2, *filter(handed_on, map(int, os.listdir("/proc/self/fd"))))))
given = marshal.dumps((name, sys.argv[1:], os.getcwd(), os.environ, numbers))
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda number, frame: line.send(bytes([number])))
packed = b"".join(each.to_bytes(4, sys.byteorder) for each in numbers)
files = (socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)
line.sendmsg([len(given).to_bytes(4, "big")], [files])
line.sendall(given)
status = int(line.recv(9) or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if status != -signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def load_everything() -> None:
    """Import what the plugin and the suites under test use, but for plugins of others."""
    from _pytest.config import default_plugins

    import pytest_llmcost
    from pytest_llmcost.prices.rate_card import shipped_card

    shipped_card()
    ours = pkgutil.walk_packages(pytest_llmcost.__path__, "pytest_llmcost.")
    theirs = (
        *("anthropic.resources.messages", "httpx", "httpx2", "jinja2", "msgspec", "vcr.cassette"),
        *("yaml", "faulthandler", "getpass", "readline", "filelock"),
    )
    # The first client that is made, and the first cassette that is opened, import these.
    for_clients = ("httpcore", "httpcore2", "truststore")
    for_cassettes = ("vcr.stubs.aiohttp_stubs", "vcr.stubs.httpx_stubs")
    # Plugins of others import these, which pytest would rewrite for each run anew. The last two are
    # large: if a socket was found in the midst of that, Python 3.11 could not parse on.
    backends = ("anyio._backends._asyncio", "anyio._backends._trio")
    for_plugins = ("hypothesis", "requests", "trio", *backends)
    pytests = ("pytest", "pdb", "execnet.multi", *(f"_pytest.{name}" for name in default_plugins))
    for name in (*for_clients, *for_cassettes, *for_plugins):
        with contextlib.suppress(ModuleNotFoundError):  # none of them is ours to require
            import_module(name)
    for plugin in ("pytest_llmcost.plugin", "pytest_recording", "xdist"):
        with contextlib.suppress(ModuleNotFoundError):
            modules = pkgutil.walk_packages(import_module(plugin).__path__, f"{plugin}.")
            for name in (plugin, *(module.name for module in modules)):
                # Otherwise pytest warns that it cannot rewrite what is imported.
                import_module(name).__doc__ = "PYTEST_DONT_REWRITE"
    for name in (*theirs, *pytests, *(module.name for module in ours)):
        import_module(name)
    # It looks for the files of all modules once, as each process that shows a traceback would.
    inspect.getmodule(load_everything.__code__)
    spare_each_run()


def spare_each_run() -> None:
    """Leave out what is the same in every run, a third of a small one, and what only waits."""
    import pytest
    from _pytest.fixtures import FixtureManager
    from _pytest.pytester import SysModulesSnapshot
    from _pytest.terminal import TerminalReporter

    def note(reporter: TerminalReporter, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        reporter._keyboardinterrupt_memo = excinfo.getrepr(style="line")

    def snapshot(_: pytest.Pytester) -> SysModulesSnapshot:
        return SysModulesSnapshot()

    patch = pytest.MonkeyPatch()
    # pytest asks everything that is installed for plugins, which reads a hundred files.
    installed = metadata.Distribution
    found = functools.cache(lambda path: tuple(installed.discover(path=[path])))
    patch.setattr(metadata, "distributions", lambda: chain.from_iterable(map(found, sys.path)))
    patch.setattr(installed, "from_name", functools.cache(installed.from_name))
    for name in ("entry_points", "metadata"):
        patch.setattr(installed, name, property(functools.cache(vars(installed)[name].fget)))
    plugins = [each for each in metadata.distributions() if "pytest11" in each.entry_points.groups]
    for name in ("pytest", *(each.name for each in plugins)):
        metadata.version(name)
    # argparse looks in some folders for a translation of each of its words.
    patch.setattr(gettext, "find", functools.cache(gettext.find))
    # pytester asks of each of thousands of modules whether it is one of two that must stay.
    patch.setattr(pytest.Pytester, "_Pytester__take_sys_modules_snapshot", snapshot, raising=False)
    # It notes each call of each hook, which no test asks for.
    patch.setattr(pytest.Pytester, "make_hook_recorder", lambda *_: SimpleNamespace())
    look_at_plugins_once(patch)
    # It unwraps all that is in the modules of plugins, to warn of fixtures that decorators hide.
    patch.setattr(FixtureManager, "_check_for_wrapped_fixture", lambda *_: None, raising=False)
    # It parses its own sources for each run that is interrupted, and shows none of it.
    patch.setattr(TerminalReporter, "pytest_keyboard_interrupt", note)
    # Each client reads the certificates of its authorities into a context, and none changes it.
    patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
    # The SDK tries again at once unless an answer says when; else it spares the API, half a second.
    patch.setattr("anthropic._base_client.MAX_RETRY_DELAY", 0.0)


def look_at_plugins_once(patch: pytest.MonkeyPatch) -> None:
    """Find hooks and fixtures once in what is loaded by now, which is the same in every run."""
    import _pytest.fixtures
    import pluggy._manager
    from _pytest.compat import safe_getattr
    from _pytest.config import PytestPluginManager

    kinds = (ModuleType, type)
    # Of a bound method nothing is kept, for it would keep what it is bound to.
    kept = (*kinds, FunctionType)
    loaded = {id(each) for each in gc.get_objects() if issubclass(type(each), kept)}
    hooks_module = sys.modules[pluggy.HookImpl.__module__]  # not the same in each version

    def once(look: Callable[..., Any]) -> Callable[..., Any]:
        known = functools.cache(look)

        def seen(holder: object, *name: object) -> Any:
            kind = holder if isinstance(holder, kinds) else type(holder)
            return (known if id(kind) in loaded else look)(kind, *name)

        return seen

    def named(names: Iterable[str]) -> list[str]:
        return [name for name in names if name.startswith("pytest_")]

    hooks_of_kind = once(lambda kind: named(dir(kind)))

    def hooks(holder: object) -> list[str]:
        own = () if isinstance(holder, kinds) else named(getattr(holder, "__dict__", ()))
        return sorted({*hooks_of_kind(holder), *own})

    def fixtures(kind: object) -> list[str]:
        return [name for name in dir(kind) if type(safe_getattr(kind, name, None)) is fixture]

    patch.setattr(pluggy._manager, "dir", hooks, raising=False)
    if fixture := getattr(_pytest.fixtures, "FixtureFunctionDefinition", None):  # since pytest 8.4
        patch.setattr(_pytest.fixtures, "dir", once(fixtures), raising=False)
    # pluggy asks this of an object only for what is not in the object's own dictionary.
    looking = SimpleNamespace(**vars(inspect))
    looking.getattr_static = once(inspect.getattr_static)
    patch.setattr(pluggy._manager, "inspect", looking)
    # It reads the decorator of each hook, and the names of its parameters.
    read, names = PytestPluginManager.parse_hookimpl_opts, hooks_module.varnames
    read_of_kind = once(functools.partial(read, PytestPluginManager()))
    names_of_loaded = functools.cache(names)

    def decorated(manager: PytestPluginManager, holder: object, name: str) -> Any:
        is_own = not isinstance(holder, kinds) and name in getattr(holder, "__dict__", ())
        return read(manager, holder, name) if is_own else read_of_kind(holder, name)

    def parameters(function: object) -> Any:
        return (names_of_loaded if id(function) in loaded else names)(function)

    patch.setattr(PytestPluginManager, "parse_hookimpl_opts", decorated)
    patch.setattr(hooks_module, "varnames", parameters)


@functools.cache
def warm_bin() -> Path:
    """Return a folder with `python`, `pytest` and `llmcost`, which work until this process ends.

    Workers of xdist take that of the process which has started them.
    """
    if sys.platform != "linux":
        return Path(sys.executable).parent
    if shared := os.environ.get("WARM_BIN"):
        return Path(shared)
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    bin_path, socket_path = Path(folder.name, "bin"), Path(folder.name, "socket")
    bin_path.mkdir()
    for name in ("python", "pytest", "llmcost"):
        (bin_path / name).write_text(SCRIPT.format(python=sys.executable, path=str(socket_path)))
        (bin_path / name).chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(socket_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.read(1) == b"."

    @atexit.register
    def end() -> None:
        with server:
            server.terminate()
        folder.cleanup()

    return bin_path


def warm_python() -> str:
    """Return the program that stands for `sys.executable`."""
    return str(warm_bin() / "python") if sys.platform == "linux" else sys.executable


def rehearse() -> None:
    """Run a suite, so that each fork finds what a first run fills: caches, and Python's own."""
    import pytest
    from spending_suite import EVERYTHING, write_files

    from pytest_llmcost.cli.main import main

    path, loaded = [*sys.path], {*sys.modules}
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
    ):
        write_files(Path(folder), EVERYTHING)
        sys.path.insert(0, folder)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # each fork is given its environment
        quiet = ("-p", "llmcost", "-p", "no:cacheprovider", f"--rootdir={folder}", folder)
        base, *reports = (f"{folder}/{name}" for name in ("b.json", "a.json", "a.md", "a.html"))
        pytest.main([*quiet, f"--llmcost-report={base}"])
        named = (f"--llmcost-report={each}" for each in reports)
        pytest.main([*quiet, f"--llmcost-baseline={base}", *named])
        main(["compare", base, reports[0]])
    sys.path[:] = path
    for name in sys.modules.keys() - loaded:
        del sys.modules[name]


def use_large_pages() -> None:
    """Let a fork take over some dozens of large pages instead of tens of thousands of small ones.

    It is a wish, which Linux grants since 6.1.
    """
    size, collapse = 1 << 21, 25
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, inode, *_ = line.split()
        first, last = (int(each, 16) for each in span.split("-"))
        first += -first % size
        if (rights, inode) == ("rw-p", "0") and first < last:
            advise(ctypes.c_void_p(first), ctypes.c_size_t((last - first) // size * size), collapse)


def serve(path: str) -> tuple[str, list[str]]:
    """Fork for every program that is started; only in the forks this returns.

    Until a fork ends, signals are passed on to it, and it is killed if the program that stands for
    it is.
    """
    lines: dict[int, tuple[int, socket.socket]] = {}
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(64)
        os.write(1, b".")
        gc.disable()
        load_everything()  # those who come meanwhile wait
        gc.enable()
        rehearse()
        # Each run goes through the names of all modules. Written anew, they lie side by side, and
        # a fork has few pages of memory to copy for it.
        for each in [*sys.modules]:
            sys.modules[each.encode().decode()] = sys.modules.pop(each)
        gc.freeze()
        use_large_pages()
        while True:
            waiting = [door, sys.stdin, *lines, *(line for _, line in lines.values())]
            ready = select.select(waiting, [], [])[0]
            if sys.stdin in ready:
                os._exit(0)  # the tests are gone
            for ended, (child, line) in [*lines.items()]:
                if ended in ready:
                    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    with contextlib.suppress(OSError):
                        line.sendall(b"%d" % status)
                    line.close()
                    os.close(ended)
                    del lines[ended]
                elif line in ready:
                    os.kill(child, ord(line.recv(1) or bytes([signal.SIGKILL])))
            if door in ready:
                line, _ = door.accept()
                size, files, *_ = socket.recv_fds(line, 4, 16)
                given = line.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
                child = os.fork()
                if not child:
                    break
                lines[os.pidfd_open(child)] = child, line
                for file in files:
                    os.close(file)
    for ended, (_, other) in lines.items():
        os.close(ended)
        other.close()
    line.close()
    name, args, cwd, env, numbers = marshal.loads(given)
    # None of them may stand where another one belongs.
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, numbers[-1] + 1) for file in files]
    for file in files:
        os.close(file)
    for number, file in zip(numbers, moved, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environb.update(env)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.warnoptions[:] = filter(None, os.environ.get("PYTHONWARNINGS", "").split(","))
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    return name, args


def run(name: str, args: list[str]) -> None:
    """Do what the program of this name would."""
    real = sys.executable
    sys.executable = str(Path(sys.argv[1]).with_name("bin") / "python")
    spawn.set_executable(sys.executable)  # which it has looked up before
    if name != "python":
        args = [str(Path(real).with_name(name)), *args]
    while args[0] in ("-u", "-B"):
        args.pop(0)
    if args[0][:2] in ("-c", "-m") and args[0][2:]:
        args[:1] = [args[0][:2], args[0][2:]]
    first = {"-c": "", "-m": os.getcwd()}.get(args[0], str(Path(args[0]).parent))
    sys.path.insert(0, first)
    if "xdist.plugin" in sys.modules:  # has kept what it was, for the workers
        sys.modules["xdist.plugin"]._sys_path[:] = sys.path
    if args[0] == "-c":
        sys.argv = ["-c", *args[2:]]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(args[1], sys.modules["__main__"].__dict__)
    elif args[0] == "-m":
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        runpy.run_path(args[0], run_name="__main__")


ENDED: list[int] = []
"""The status of a program that ended of itself."""


def end_at_once() -> None:
    """Leave out that Python takes everything apart, which costs as much as a small run."""
    if ENDED:
        if "coverage" in sys.modules and (measuring := sys.modules["coverage"].Coverage.current()):
            measuring.stop()
            measuring.save()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ENDED[0])


if __name__ == "__main__":
    import spending_suite  # noqa: F401 - for the rehearsal

    del sys.path[0]
    atexit.register(end_at_once)  # the first, so that it is called as the last
    program = serve(sys.argv[1])
    try:
        run(*program)
        ENDED.append(0)
    except SystemExit as end:
        if isinstance(end.code, int):
            ENDED.append(end.code & 0xFF)
        raise
