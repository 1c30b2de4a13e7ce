"""The layout holds: imports go one way, optional packages stay optional, no file names one machine."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Part of the package (a module or sub-package of mice_st) -> the other parts that it may import, lowest first.
# A row's parts may import each other only where the row says so; "below" is every part of the rows above.
LAYERS: list[tuple[str, str]] = [
    ("modeling released", ""),
    ("collection python_docs first_stage collection_source", "collection python_docs first_stage collection_source"),
    ("states masking", "modeling collection python_docs first_stage"),
    ("hub_folder", "modeling"),
    ("provenance", "hub_folder released"),
    ("cross_encoder", "modeling collection python_docs first_stage states hub_folder"),
    ("model_loading", "below"),
    ("convert corpus_statistics", "below"),
    ("__init__", "below"),  # what `import mice_st` offers; nobody below `demo` and `cli` imports it
    ("evaluation", "below"),
    ("hub", "below"),
    ("training benchmark", "below"),
    ("laboratory", "below"),
    ("convert_command merge_command rank_command store_commands", "below"),
    (
        "demo demo_released demo_training cli recipes ablation ablation_grid",
        "below demo demo_released demo_training cli recipes ablation ablation_grid __init__",
    ),
]

# What goes to a Hub repository runs on a user's machine, where only these are sure to be installed.
HUB_PACKAGES = set(sys.stdlib_module_names) | {"torch", "transformers"}
HUB_EXTRA = {"st_mice": {"sentence_transformers"}}
# Loaders hash a local folder's entry files one by one, each with what it imports, and keep a copy of both for each hash.
# So the module of sentence-transformers must not hang together with the others; that the model's file has its own copy
# of the configuration is as in every repository with `configuration_*.py`, and nothing here compares these classes.
HUB_APART = {
    ("st_mice", "modeling_mice"),
    ("st_mice", "configuration_mice"),
    ("configuration_mice", "modeling_mice"),
}

# Packages of extras: `import mice_st` has to work, and be quick, without them.
OPTIONAL = {
    "bm25s",
    "datasets",
    "fastapi",
    "lance",
    "matplotlib",
    "mteb",
    "onnxruntime",
    "pytrec_eval",
    "ray",
}


def allowed_parts() -> dict[str, set[str]]:
    """Reads LAYERS: part -> parts that it may import."""
    allowed: dict[str, set[str]] = {}
    for names, known in LAYERS:
        below = set(allowed) - {"__init__"}
        words = set(known.split())
        parts = (words - {"below"}) | (below if "below" in words else set())
        allowed.update(dict.fromkeys(names.split(), parts))
    return allowed


def imports(source: str, package: str) -> Iterator[tuple[str, int]]:
    """Yields (absolute dotted name, line) for each import, `from a import b` as a.b, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{prefix}.{alias.name}", node.lineno) for alias in node.names)


def package_problems(part: str, source: str, package: str) -> list[str]:
    """Imports in a file of mice_st that go against LAYERS, one message each."""
    allowed = allowed_parts()
    if part not in allowed:
        return [f"{part}: give it a place in LAYERS"]
    problems = []
    for name, line in imports(source, package):
        if name.split(".")[0] in {"modeling", "tests", "examples"}:
            problems.append(f"{part}:{line} imports {name}, which is not installed under that name")
        if name.split(".")[0] != "mice_st":
            continue
        head = name.split(".")[1] if "." in name else "__init__"
        target = head if head in allowed else "__init__"  # `from mice_st import MiceCrossEncoder`
        if target not in allowed[part] | {part}:
            problems.append(f"{part}:{line} imports {name}: {part} may know {sorted(allowed[part])}")
    return problems


def hub_problems(module: str, source: str) -> list[str]:
    """Imports in a modelling file that would break its copy in a Hub repository, one message each."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or node.module is None or "." in node.module:
                problems.append(f"{module}:{node.lineno} only `from .x import Y` is copied along by transformers")
            elif (module, node.module) in HUB_APART:
                problems.append(f"{module}:{node.lineno} must not import {node.module}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            foreign = {name.split(".")[0] for name in names} - HUB_PACKAGES - HUB_EXTRA.get(module, set())
            problems += [f"{module}:{node.lineno} imports {name}" for name in sorted(foreign)]
    return problems


def package_files() -> list[Path]:
    return sorted((ROOT / "mice_st").rglob("*.py"))


def test_package_imports_go_one_way() -> None:
    problems = []
    for path in package_files():
        relative = path.relative_to(ROOT)
        problems += package_problems(
            relative.parts[1].removesuffix(".py"), path.read_text(), ".".join(relative.parts[:-1])
        )
    assert not problems, "\n".join(problems)


def test_modelling_files_import_only_what_a_hub_repository_has() -> None:
    files = sorted((ROOT / "modeling").glob("*.py"))
    assert files
    problems = [problem for path in files for problem in hub_problems(path.stem, path.read_text())]
    assert not problems, "\n".join(problems)
    assert not list((ROOT / "modeling").glob("*/*.py")), "sub-folders are not copied to a Hub repository"


def test_tests_and_examples_import_the_installed_name() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    bare = [
        f"{path.name}:{line}"
        for path in files
        for name, line in imports(path.read_text(), "")
        if name.startswith("modeling")
    ]
    assert not bare, f"import mice_st.modeling, not modeling: {bare}"


@pytest.mark.parametrize(
    ("part", "package", "source", "fine"),
    [
        ("states", "mice_st.states", "from mice_st.modeling.configuration_mice import MiceConfig", True),
        ("states", "mice_st.states", "from mice_st.cross_encoder import MiceCrossEncoder", False),
        ("states", "mice_st.states", "def f():\n    from ..cross_encoder import MiceCrossEncoder", False),
        ("states", "mice_st.states", "from .store import Store", True),
        ("convert", "mice_st", "from . import cross_encoder", True),
        ("cross_encoder", "mice_st", "from mice_st import convert", False),
        ("cross_encoder", "mice_st", "from mice_st import MiceCrossEncoder", False),
        ("evaluation", "mice_st.evaluation", "import mice_st.training", False),
        ("training", "mice_st.training", "import mice_st.evaluation.metrics", True),
        ("first_stage", "mice_st", "from modeling.configuration_mice import MiceConfig", False),
        ("cli", "mice_st", "from mice_st import MiceCrossEncoder, demo", True),
        ("newcomer", "mice_st", "", False),
    ],
)
def test_checker_refuses_a_bad_package_import(part: str, package: str, source: str, fine: bool) -> None:
    assert (package_problems(part, source, package) == []) is fine


@pytest.mark.parametrize(
    ("module", "source", "fine"),
    [
        ("modeling_mice", "import math\nimport torch.nn\nfrom .interaction import attend", True),
        ("modeling_mice", "if TYPE_CHECKING:\n    from mice_st.states import Store", False),
        ("modeling_mice", "from . import interaction", False),
        ("modeling_mice", "from .sub.interaction import attend", False),
        ("modeling_mice", "import numpy", False),
        ("modeling_mice", "from sentence_transformers import CrossEncoder", False),
        ("st_mice", "from sentence_transformers import CrossEncoder", True),
        ("modeling_mice", "from .configuration_mice import MiceConfig", True),
        ("st_mice", "from .modeling_mice import MiceForSequenceClassification", False),
        ("st_mice", "from .configuration_mice import MiceConfig", False),
    ],
)
def test_checker_refuses_a_bad_modelling_import(module: str, source: str, fine: bool) -> None:
    assert (hub_problems(module, source) == []) is fine


def start_and_list_modules(statement: str) -> subprocess.Popen[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE)


def test_importing_the_package_loads_no_optional_package() -> None:
    # The control loads one on purpose, so that the comparison is seen to notice it.
    alone = "from sentence_transformers import CrossEncoder"
    started = [start_and_list_modules(statement) for statement in (alone, "import mice_st", f"{alone}\nimport bm25s")]
    base, ours, control = (set(process.communicate()[0].split()) for process in started)
    assert [process.returncode for process in started] == [0, 0, 0]
    assert "sentence_transformers" in ours
    assert (ours - base) & OPTIONAL == set()
    assert "bm25s" in control - base


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
