"""The imports of all modules of mice_st, read with ``ast``: what the tests hold to one direction, and ``measure_house.py`` counts.

Every import counts: at the top of a file, inside a function, and under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = dict[str, dict[str, int]]  # module -> module that it imports -> line


def module_files(root: Path) -> dict[str, Path]:
    """All modules by the name under which they are installed; ``modeling/`` is ``mice_st.modeling``.

    Args:
        root: The checkout.
    """
    modules = {}
    for folder, name in ((root / "mice_st", "mice_st"), (root / "modeling", "mice_st.modeling")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if name == "mice_st" and parts[0] == "modeling":  # a link to modeling/
                continue
            modules[".".join([name, *parts]).removesuffix(".__init__")] = path
    return modules


def imports(source: str, package: str) -> Iterator[tuple[str, int]]:
    """Absolute name and line of each import, ``from a import b`` as ``a.b``, wherever in the file it stands.

    Args:
        source: The file's text.
        package: The package that the file lies in, for relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = above[: len(above) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{prefix}.{alias.name}", node.lineno) for alias in node.names)


def package_of(module: str, path: Path) -> str:
    """The package that relative imports of a module start from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def import_graph(files: Mapping[str, Path]) -> Graph:
    """Which module imports which.

    Args:
        files: Name of each module -> its file.

    Returns:
        Only imports of these modules; ``from package import name`` leads to the module ``name`` where there is one, else to the package.
    """
    graph: Graph = {}
    for module, path in files.items():
        graph[module] = {}
        for name, line in imports(path.read_text(encoding="utf-8"), package_of(module, path)):
            target = name if name in files else name.rpartition(".")[0]
            if target in files and target != module:
                graph[module].setdefault(target, line)
    return graph


def reachable(graph: Mapping[str, Mapping[str, int]], start: str) -> set[str]:
    """Modules that ``start`` imports, directly or through others; itself only where it lies on a circle."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def import_circles(graph: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Groups of modules that reach each other (strongly connected components of more than one module), sorted."""
    reach = {module: reachable(graph, module) for module in graph}
    circles = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return [list(circle) for circle in sorted(circles)]
