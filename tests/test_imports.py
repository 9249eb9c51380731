"""The edges between modules, as the table of floors in docs/architecture.md states them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "gtl").rglob("*.py"))

# Who may import a package, as prefixes of module names. The others of the floors table hold by floor.
ONLY = {
    "deap": ("gtl.evolution",),
    "ray": ("gtl.population.ray_pool",),
    "yaml": ("gtl.strict_yaml",),
    "gtl.strict_yaml": ("gtl.config_file",),
    "torchvision": ("gtl.data.cifar_fs", "gtl.models.adapters"),
    "matplotlib": ("gtl.report", "gtl.data.glyphs"),
    "typer": ("gtl.cli",),
    "rich": ("gtl.cli", "gtl.report"),
    "huggingface_hub": ("gtl.learngene.hub",),
    "onnx": ("gtl.learngene.onnx_file",),
    "onnxruntime": ("gtl.learngene.onnx_file",),
}
FLOOR_0 = {"numpy", "pydantic", "yaml"}
NO_TORCH = ("0 values", "1 variation")
HEAVY = ("torch", "torchvision", "ray", "matplotlib", "sklearn", "scipy")
RUNS_CODE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pandas"}
CHECKPOINTS = "gtl.learngene.checkpoint"  # the one module that may call torch.load, with the reader that runs no code
# Folders of people and machines; no tracked file, not even a card inside a learngene, should name one.
MACHINE_PATH = re.compile(rb"(?<![\w.$~/-])/(?:home|Users|root|work|mnt)/[\w.-]+")


def module_name(path: Path) -> str:
    """gtl/data/images.py -> gtl.data.images; gtl/data/__init__.py -> gtl.data."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def table() -> dict[str, str]:
    """Module or package (``gtl.data``) -> its row (``2 learning``)."""
    rows = re.findall(r"^\| (\d \w+) \| ([^|]+) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    return {f"gtl.{name.strip().removesuffix('/')}": row for row, names in rows for name in names.split(",")}


def row_of(module: str) -> str:
    """The table's row of a module."""
    key = ".".join(module.split(".")[:2])
    assert key in table(), f"{key} is in no row of the table of floors in docs/architecture.md: add it"
    return table()[key]


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names of everything that is imported, wherever the statement stands; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports() -> dict[str, tuple[str, ...]]:
    """Module -> what it imports."""
    found = {}
    for path in FILES:
        name = module_name(path)
        found[name] = tuple(imported(ast.parse(path.read_text()), name, path.name == "__init__.py"))
    return found


def within(name: str, prefixes: tuple[str, ...] | set[str]) -> bool:
    """Whether a dotted name is one of these or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def edges() -> Iterator[tuple[str, str]]:
    for module, names in imports().items():
        yield from ((module, name) for name in names)


def test_the_walk_sees_every_form_of_import() -> None:
    code = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h"
    assert set(imported(ast.parse(code), "gtl.x.y", False)) == {"a.b", "c.d", "gtl.x.e", "gtl.g.h"}
    assert set(imported(ast.parse(code), "gtl.x", True)) == {"a.b", "c.d", "gtl.x.e", "gtl.g.h"}


def test_the_table_names_what_there_is() -> None:
    assert set(table().values()) >= {"0 values", "1 networks", "1 variation", "2 learning", "4 engine", "5 doors"}
    for name in imports():
        if name != "gtl":
            row_of(name)


def test_imports_point_down() -> None:
    wrong = []
    for module, name in edges():
        if not name.startswith("gtl.") or module == "gtl":  # gtl/__init__.py is the lazy door to everything
            continue
        own, other = row_of(module), row_of(name)
        if own != other and other[0] >= own[0]:
            wrong.append(f"{module} ({own}) imports {name} ({other})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ONLY)
def test_only(package: str) -> None:
    wrong = [m for m, name in edges() if within(name, (package,)) and not within(m, ONLY[package])]
    assert not wrong, f"{package} belongs to {ONLY[package]}, but is imported by {wrong}"


def test_floor_0_needs_almost_nothing() -> None:
    wrong = []
    for module, name in edges():
        top = name.split(".")[0]
        if module != "gtl" and row_of(module) == "0 values" and top not in {"gtl", *FLOOR_0, *sys.stdlib_module_names}:
            wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_torch_where_there_are_only_values_and_variation() -> None:
    wrong = [f"{m} imports {n}" for m, n in edges() if m != "gtl" and row_of(m) in NO_TORCH and within(n, ("torch",))]
    assert not wrong, "\n".join(wrong)


def test_values_and_variation_load_nothing_heavy() -> None:
    light = sorted(name for name in imports() if name == "gtl" or row_of(name) in NO_TORCH)
    code = f"import sys, {', '.join(light)}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"importing {light} loads {done.stdout}"


def test_nothing_that_runs_code_when_read() -> None:
    wrong = [f"{module} imports {name}" for module, name in edges() if within(name, RUNS_CODE)]
    wrong += [f"{m} imports {n}" for m, n in edges() if n in {"torch.save", "torch.load", "torch.package"}]
    read = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{module_name(path)}:{getattr(node, 'lineno', 0)}"
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "torch.load"
                and module_name(path) == CHECKPOINTS
            ):
                assert "weights_only=True" in map(ast.unparse, node.keywords), f"{where} would run code"
                read.append(node.func)
                continue
            if node in read:
                continue
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.save", "torch.load", "torch.jit.load"}:
                wrong.append(f"{where} uses {ast.unparse(node)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                wrong.append(f"{where} allows pickles")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"eval", "exec"}:
                wrong.append(f"{where} calls {ast.unparse(node.func)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_stay_readable(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines < 400, f"{path.name} has {lines} lines; split it"


def test_no_path_of_this_machine() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, cwd=ROOT, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    own = [str(ROOT).encode(), str(Path.home()).encode()]
    wrong = []
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        found = MACHINE_PATH.search(content)
        if found or any(len(folder) > 6 and folder in content for folder in own):
            wrong.append(f"{name}: {found[0].decode() if found else 'this checkout or the home folder'}")
    assert not wrong, "\n".join(wrong)
