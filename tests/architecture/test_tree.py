"""Rules of the source tree: who may import what, who may do I/O, how long a file and a function may be."""

import ast

import pytest

from proxy.dataplane.counters import METRICS
from tests.architecture.tree import ROOT, functions, imported, sources

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Where sockets, files, processes and clocks may be touched; all else in proxy/ is a function of its arguments.
IO_PLACES = (
    "proxy/dataplane/",
    "proxy/stores/",
    "proxy/sinks/",
    "proxy/supervisor/",
    "proxy/inspector/",
    "proxy/net/",
    "proxy/cli/",
    "proxy/keys/",
    "proxy/demo/",
    "proxy/config/load.py",
    "proxy/paths.py",
    "addons/",
)
IO_MODULES = frozenset(
    [
        "asyncio",
        "fcntl",
        "http.client",
        "http.server",
        "logging",
        "mmap",
        "multiprocessing",
        "os",
        "queue",
        "random",
        "redis",
        "requests",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "socketserver",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib.request",
        "uvloop",
    ]
)
IO_CALLS = frozenset({"open", "input", "print", "read_bytes", "read_text", "write_bytes", "write_text", "mkdir"})

# Names of I/O modules that pure code may use all the same, and why.
ALLOWED_IN_PURE = {
    "proxy/bodies/pdf.py": {"logging"},  # switches pypdf's log off, which quotes documents
    "proxy/recognizers/engine.py": {"threading"},  # a lock around the model that is loaded once
    "proxy/recognizers/rampart.py": {"read_bytes"},  # the model's files, once, when it is loaded
    "proxy/recognizers/_encoder.py": {"read_bytes"},
    "proxy/recognizers/_intact.py": {"read_bytes", "read_text"},  # the same, and what was recorded of them
    "proxy/recognizers/_custom.py": {"read_bytes"},  # the installation's own recognisers
    "proxy/recognizers/__init__.py": {"os"},  # the variable that names them
}


def _pure() -> list[str]:
    return [path for path in sources() if not path.startswith(IO_PLACES)]


def _top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("path", sorted(sources()))
def test_a_file_and_its_functions_are_short_enough_to_read(path: str) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= MAX_FILE_LINES, f"{path} has {lines} lines"
    for function in functions(sources()[path]):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{path}:{function.lineno} {function.name} has {length} lines"


def test_only_addons_and_the_data_plane_import_mitmproxy() -> None:
    found = [
        f"{path}:{line}"
        for path, tree in sources().items()
        for line, module in imported(tree)
        if _top(module) == "mitmproxy" and not path.startswith(("addons/", "proxy/dataplane/"))
    ]
    assert not found


def test_the_product_never_imports_addons_by_name() -> None:
    found = [
        f"{path}:{line}"
        for path, tree in sources().items()
        for line, module in imported(tree)
        if _top(module) == "addons" and path.startswith("proxy/") and path != "proxy/cli/run.py"
    ]
    assert not found


@pytest.mark.parametrize("path", sorted(_pure()))
def test_a_pure_module_does_no_io(path: str) -> None:
    tree = sources()[path]
    allowed = ALLOWED_IN_PURE.get(path, set())
    imports = [f"line {line}: imports {module}" for line, module in imported(tree) if module in IO_MODULES - allowed]
    calls = [
        f"line {node.lineno}: calls {name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (name := _called(node)) in IO_CALLS and name not in allowed
    ]
    assert not imports + calls


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute) and node.func.attr in IO_CALLS - {"open", "input", "print"}:
        return node.func.attr
    return ""


@pytest.mark.parametrize("path", sorted(sources()))
def test_policy_never_hangs_on_assert(path: str) -> None:
    """Workers run with PYTHONOPTIMIZE=1: an assert there is no check at all."""
    assert not [node.lineno for node in ast.walk(sources()[path]) if isinstance(node, ast.Assert)]


def test_every_counted_metric_is_declared_with_its_labels() -> None:
    wrong = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr not in {"add", "observe", "set"} or not _is_counters(node.func.value):
                continue
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                metric = METRICS.get(name.value)
                labels = node.args[1] if len(node.args) > 1 else ast.Tuple(elts=[])
                if metric is None or (isinstance(labels, ast.Tuple) and len(labels.elts) != len(metric.labels)):
                    wrong.append(f"{path}:{node.lineno} {name.value}")
    assert not wrong


def _is_counters(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] in {"counters", "_counters", "own"}
