"""House rules that a reviewer should not have to remember: which part may import which, and no traces of a machine in the repository."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.import_graph import Graph, import_circles, import_graph, imports, module_files, reachable  # noqa: E402

# The parts of mice_st, lowest first: a part may import those above it in this list, and itself. No exceptions: what two parts need goes below both.
PARTS = (
    "modeling",
    "files",
    "data",
    "model_folder",
    "states",
    "cross_encoder",
    "research.masking",  # masked cross-encoders are loaded like any other model
    "loading",
    "conversion",
    "evaluation",
    "hub",
    "training",
    "index",
    "serving",
    "integrations",
    "scale",
    "__init__",  # what `import mice_st` offers
    "research",
    "commands",
    "__main__",
)

# Packages of extras, and the parts or modules that may import them. Everything else works without any extra.
EXTRA_PACKAGES = {
    "bm25s": ("data",),
    "datasets": ("training", "evaluation.mteb", "research.laboratory"),
    "faiss": ("states.ann",),
    "fastapi": ("serving",),
    "lance": ("states.lance", "scale"),
    "matplotlib": ("evaluation", "research.benchmark"),
    "mcp": ("serving",),
    "mteb": ("evaluation.mteb",),
    "onnx": ("research.benchmark",),
    "onnxruntime": ("research.benchmark",),
    "onnxscript": ("research.benchmark",),
    "pyarrow": ("states.lance", "training", "scale", "data"),
    "pytrec_eval": ("evaluation",),
    "ray": ("scale",),
    "scipy": ("evaluation",),
    "uvicorn": ("serving",),
    "zstandard": ("data",),
}

MOST_NAMES = 16  # in mice_st/, so that a reader takes it in at a glance
UNCOUNTED = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}

# What goes to a Hub repository runs on a user's machine, where only these are sure to be installed.
HUB_PACKAGES = set(sys.stdlib_module_names) | {"torch", "transformers"}
HUB_EXTRA = {"st_mice": {"sentence_transformers", "tokenizers"}}  # transformers itself needs tokenizers
# Loaders hash a local folder's entry files one by one, each with what it imports, and keep a copy of both for each hash. So
# sentence-transformers' module must not hang together with the model.
HUB_APART = ("st_mice", "modeling_mice")
# transformers downloads again what is missing of an entry file's direct imports, and nothing of what those import.
HUB_ENTRIES = ("modeling_mice", "st_mice")


def part_of(module: str) -> str:
    """The row of PARTS that a module belongs to: the longest name that it starts with; empty where there is none."""
    name = module.removeprefix("mice_st").removeprefix(".") or "__init__"
    rows = [part for part in PARTS if belongs(name, part)]
    return max(rows, key=len, default="")


def belongs(name: str, part: str) -> bool:
    """Whether ``evaluation.mteb_model`` lies in ``evaluation``, or in the files ``evaluation.mteb...``."""
    return name == part or name.startswith((f"{part}.", f"{part}_"))


def direction_problems(graph: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Imports that go against PARTS, one message each."""
    problems = [f"{module}: give it a row in PARTS" for module in graph if not part_of(module)]
    for module, targets in graph.items():
        part = part_of(module)
        for target, line in targets.items():
            if part and part_of(target) and PARTS.index(part_of(target)) > PARTS.index(part):
                problems.append(f"{module}:{line} imports {target}, but {part} lies below {part_of(target)}")
    return problems


def package_problems(module: str, source: str) -> list[str]:
    """Imports of packages that this module of mice_st must not know, one message each."""
    name = module.removeprefix("mice_st.")
    problems = []
    for imported, line in imports(source, module.rpartition(".")[0]):
        package = imported.split(".")[0]
        if package in {"modeling", "tests", "examples", "scripts"}:
            problems.append(f"{module}:{line} imports {imported}, which is not installed under that name")
        if package in EXTRA_PACKAGES and not any(belongs(name, part) for part in EXTRA_PACKAGES[package]):
            problems.append(f"{module}:{line} imports {package}, which belongs to {', '.join(EXTRA_PACKAGES[package])}")
    return problems


def hub_problems(module: str, source: str) -> list[str]:
    """Imports in a modelling file that would break its copy in a Hub repository, one message each."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or node.module is None or "." in node.module:
                problems.append(f"{module}:{node.lineno} only `from .x import Y` is copied along by transformers")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            foreign = {name.split(".")[0] for name in names} - HUB_PACKAGES - HUB_EXTRA.get(module, set())
            problems += [f"{module}:{node.lineno} imports {name}" for name in sorted(foreign)]
    return problems


def hub_graph_problems(graph: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Chains of imports between modelling files that a broken download would not heal from, one message each.

    Args:
        graph: Modelling file, without its package -> modelling file that it imports -> line.
    """
    problems = [
        f"configuration_mice:{line} imports {target}: a configuration is read before any layer"
        for target, line in graph.get("configuration_mice", {}).items()
    ]
    for entry in HUB_ENTRIES:
        if entry in graph:
            indirect = reachable(graph, entry) - graph[entry].keys()
            problems += [f"{entry} reaches {target}, and must import it directly" for target in sorted(indirect)]
    apart, model = HUB_APART
    if apart in graph and model in reachable(graph, apart):
        problems.append(f"{apart} must not import {model}")
    return problems


def package_graph() -> Graph:
    return import_graph(module_files(ROOT))


def test_no_module_imports_itself_through_others() -> None:
    circles = import_circles(package_graph())
    assert not circles, "\n".join(" <-> ".join(circle) for circle in circles)


def test_package_imports_go_one_way() -> None:
    problems = direction_problems(package_graph())
    assert not problems, "\n".join(problems)


def test_packages_of_an_extra_stay_in_its_part() -> None:
    files = module_files(ROOT)
    problems = [problem for module, path in files.items() for problem in package_problems(module, path.read_text())]
    assert not problems, "\n".join(problems)


def test_package_has_at_most_sixteen_names() -> None:
    names = sorted(path.name for path in (ROOT / "mice_st").iterdir() if path.name not in UNCOUNTED | {"modeling"})
    assert len(names) <= MOST_NAMES, names


def test_modelling_files_import_only_what_a_hub_repository_has() -> None:
    files = sorted((ROOT / "modeling").glob("*.py"))
    assert files
    problems = [problem for path in files for problem in hub_problems(path.stem, path.read_text())]
    assert not problems, "\n".join(problems)
    assert not list((ROOT / "modeling").glob("*/*.py")), "sub-folders are not copied to a Hub repository"


def test_entry_files_of_a_hub_repository_import_directly_what_they_reach() -> None:
    files = {path.stem: path for path in sorted((ROOT / "modeling").glob("*.py")) if path.stem != "__init__"}
    modules = {f"modeling.{name}": path for name, path in files.items()}
    graph = {
        module.removeprefix("modeling."): {target.removeprefix("modeling."): line for target, line in targets.items()}
        for module, targets in import_graph(modules).items()
    }
    problems = hub_graph_problems(graph)
    assert not problems, "\n".join(problems)


def test_tests_and_examples_import_the_installed_name() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    bare = [
        f"{path.name}:{line}"
        for path in files
        for name, line in imports(path.read_text(), "")
        if name.startswith("modeling")
    ]
    assert not bare, f"import mice_st.modeling, not modeling: {bare}"


def graph_of(tmp_path: Path, **sources: str) -> Graph:
    """The graph of some files, named as modules with ``__`` for each dot."""
    files = {}
    for name, source in sources.items():
        module = name.replace("__", ".")
        files[module] = tmp_path / f"{module}.py"
        files[module].write_text(source)
    return import_graph(files)


@pytest.mark.parametrize(
    ("first", "second", "fine"),
    [
        ("from mice_st.b import f", "", True),
        ("from mice_st.b import f", "from .a import g", False),
        ("from mice_st.b import f", "def g():\n    from mice_st import a", False),
        ("from mice_st.b import f", "if TYPE_CHECKING:\n    import mice_st.a", False),
        ("from mice_st.b import f", "from mice_st.c import h", False),
        ("from mice_st.b import f", "from mice_st.d import h", True),
    ],
)
def test_checker_finds_circles(tmp_path: Path, first: str, second: str, fine: bool) -> None:
    graph = graph_of(tmp_path, mice_st__a=first, mice_st__b=second, mice_st__c="from mice_st.a import x", mice_st__d="")
    circles = import_circles(graph)
    assert (circles == []) is fine
    assert all("mice_st.a" in circle and "mice_st.d" not in circle for circle in circles)


@pytest.mark.parametrize(
    ("module", "target", "fine"),
    [
        ("mice_st.states.store", "mice_st.modeling.configuration_mice", True),
        ("mice_st.states.store", "mice_st.states.rows", True),
        ("mice_st.states.store", "mice_st.cross_encoder", False),
        ("mice_st.cross_encoder", "mice_st", False),
        ("mice_st.cross_encoder", "mice_st.conversion.convert", False),
        ("mice_st.evaluation.pipeline", "mice_st.training.trainer", False),
        ("mice_st.evaluation.pipeline", "mice_st.commands.evaluate", False),
        ("mice_st.training.trainer", "mice_st.evaluation.metrics", True),
        ("mice_st.loading", "mice_st.research.masking.cross_encoder", True),
        ("mice_st.loading", "mice_st.research.laboratory.ladder", False),
        ("mice_st.commands.ablation_grid", "mice_st.commands.convert", True),
        ("mice_st.research.laboratory.ladder", "mice_st.commands.convert", False),
        ("mice_st.commands.main", "mice_st", True),
        ("mice_st.newcomer", "mice_st.files", False),
    ],
)
def test_checker_refuses_an_import_upwards(module: str, target: str, fine: bool) -> None:
    assert (direction_problems({module: {target: 1}}) == []) is fine


@pytest.mark.parametrize(
    ("module", "source", "fine"),
    [
        ("mice_st.evaluation.mteb_model", "def f():\n    import mteb", True),
        ("mice_st.evaluation.pipeline", "def f():\n    from mteb import evaluate", False),
        ("mice_st.states.lance_files", "import lance", True),
        ("mice_st.states.store", "import lance.file", False),
        ("mice_st.commands.evaluate", "from matplotlib import pyplot", False),
        ("mice_st.cross_encoder", "from modeling.configuration_mice import MiceConfig", False),
        ("mice_st.cross_encoder", "from .modeling.configuration_mice import MiceConfig", True),
    ],
)
def test_checker_refuses_a_package_outside_its_part(module: str, source: str, fine: bool) -> None:
    assert (package_problems(module, source) == []) is fine


@pytest.mark.parametrize(
    ("module", "source", "fine"),
    [
        ("modeling_mice", "import math\nimport torch.nn\nfrom .interaction_mice import attend", True),
        ("modeling_mice", "if TYPE_CHECKING:\n    from mice_st.states import Store", False),
        ("modeling_mice", "from . import interaction_mice", False),
        ("modeling_mice", "from .sub.interaction_mice import attend", False),
        ("modeling_mice", "import numpy", False),
        ("modeling_mice", "from sentence_transformers import CrossEncoder", False),
        ("st_mice", "from sentence_transformers import CrossEncoder", True),
        ("modeling_mice", "from .configuration_mice import MiceConfig", True),
    ],
)
def test_checker_refuses_a_bad_modelling_import(module: str, source: str, fine: bool) -> None:
    assert (hub_problems(module, source) == []) is fine


@pytest.mark.parametrize(
    ("graph", "fine"),
    [
        ({"modeling_mice": {"a": 1, "b": 2}, "a": {"b": 1}, "b": {}}, True),
        ({"modeling_mice": {"a": 1}, "a": {"b": 1}, "b": {}}, False),
        ({"st_mice": {"a": 1}, "a": {"b": 1}, "b": {}}, False),
        ({"st_mice": {"modeling_mice": 1}, "modeling_mice": {}}, False),
        ({"st_mice": {"a": 1, "modeling_mice": 2}, "a": {"modeling_mice": 1}, "modeling_mice": {}}, False),
        ({"configuration_mice": {"a": 1}, "a": {}}, False),
        ({"configuration_mice": {}, "a": {"b": 1}, "b": {"c": 1}, "c": {}}, True),
    ],
)
def test_checker_refuses_modelling_files_that_would_not_heal(graph: Graph, fine: bool) -> None:
    assert (hub_graph_problems(graph) == []) is fine


def start_and_list_modules(statement: str) -> subprocess.Popen[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE)


def test_importing_the_package_loads_no_optional_package() -> None:
    # The control loads one on purpose, so that the comparison is seen to notice it.
    alone = "from sentence_transformers import CrossEncoder"
    names = "from mice_st import MiceCrossEncoder, convert"
    statements = (alone, names, "import mice_st", f"{alone}\nimport bm25s")
    started = [start_and_list_modules(statement) for statement in statements]
    base, ours, nothing, control = (set(process.communicate()[0].split()) for process in started)
    assert [process.returncode for process in started] == [0, 0, 0, 0]
    assert "sentence_transformers" in ours
    assert (ours - base) & EXTRA_PACKAGES.keys() == set()
    assert nothing & {"torch", "transformers", "sentence_transformers", "numpy", *EXTRA_PACKAGES} == set()
    assert "bm25s" in control - base


def paths_of_table(page: str) -> list[str]:
    """The paths in the first column of a table; one without a folder of its own lies beside the path before it, where there is such a file."""
    paths: list[str] = []
    for line in page.splitlines():
        folder = Path()
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else ():
            alone = "/" not in name.rstrip("/") and (ROOT / folder / name).exists()
            paths.append(str(folder / name) if alone else name)
            folder = Path(paths[-1]).parent
    return paths


def test_contributing_names_files_that_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where things are")[1].split("\n## ")[0]
    paths = paths_of_table(page)
    assert len(paths) > 50
    assert [path for path in paths if not (ROOT / path).exists()] == []
    made = "| `tests/test_house.py`, `conftest.py`, `docs/` | not `this` |"
    assert paths_of_table(made) == ["tests/test_house.py", "tests/conftest.py", "docs/"]


# Written in pieces, so that this file does not find itself.
MACHINE_TRACES = re.compile(
    rb"(?<![\w.])/(?:wor[k]|roo[t])/|/tm[p]/w/|/op[t]/(?:wheel|pyp)|pyp[i]\.org|pythonhoste[d]\.|registr[y]\.npmjs"
    rb"|downloa[d]\.pytorch|de[b]\.debian|anacond[a]\.org|--(?:extra-)?inde[x]-url"
)


def test_tracked_files_name_no_machine_path_and_no_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files are ours")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in files
        if path.is_file()
        for match in MACHINE_TRACES.finditer(path.read_bytes())
    ]
    assert not found, "\n".join(found)


def test_trace_pattern_finds_what_it_should() -> None:
    traces = [b"see /wor" + b"k/data", b"cd /roo" + b"t/x", b"https://pyp" + b"i.org/simple", b"--inde" + b"x-url"]
    assert all(MACHINE_TRACES.search(trace) for trace in traces)
    assert not MACHINE_TRACES.search(b"https://example.org/wor" + b"k/paper and ./roo" + b"t/")
