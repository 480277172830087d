"""The order of the house: a module imports only from those above it, also inside functions; heavy things load late."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "softmaxnet"

FLOORS = (
    "errors machine memory",
    "logit_arguments softmax means reliability metrics calibration conformal decisions communicator processes",
    "data features findings leaks sanity precheck row_runs",
    "tensor_file network class_tiles held_out head_plan head head_tiles head_pass head_kernel head_shards parameters",
    "batches dropout layer_pass embedding_pass backward optimizer",
    "checkpoint kept_weights data_parallel validation training regression full_batch recipe history",
    "fitted row_space mixture whole_fit little_data regression_search continuation comparison fitting",
    "importance explain model golden model_file onnx_graph onnx_export drawing",
    "inputs fit_job stream_memory stream_feed readable_source streamed_fit predictor estimator",
    "plots report demo ray",
    "request_rows model_schema service protocol_v2 server",
    "cli __main__",
)
ORDER = " ".join(FLOORS).split()
"""The parts from the bottom to the top; a package counts as one."""

HEAVY = {"torch", "sklearn", "pyarrow", "matplotlib", "rich", "pandas", "polars", "fastapi", "onnx", "ray"}
MAY_IMPORT_AT_ONCE = {("estimator", "sklearn"), ("predictor", "sklearn")}
MAY_IMPORT = {
    "sklearn": {"estimator", "predictor", "demo"},
    "matplotlib": {"plots", "report"},
    "rich": {"cli"},
    "ray": {"ray"},
    "torch": {
        "backward",
        "batches",
        "cli",  # doctor asks it for its version
        "communicator",
        "data_parallel",
        "comparison",
        "continuation",
        "fitted",
        "fitting",
        "full_batch",
        "little_data",
        "whole_fit",
        "class_tiles",  # for arrays that are torch's already
        "head",
        "head_kernel",
        "head_pass",
        "head_shards",
        "head_tiles",
        "dropout",
        "embedding_pass",
        "held_out",
        "kept_weights",
        "layer_pass",
        "machine",
        "network",  # for arrays that are torch's already
        "optimizer",
        "parameters",
        "processes",
        "regression",
        "regression_search",
        "stream_feed",
        "streamed_fit",
        "training",
        "validation",
    },
}


def modules() -> dict[str, Path]:
    """Return every module by its name within the package; the package itself is the empty name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """Yield what a file imports, anywhere or only what is loaded together with it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _at_once(tree.body) if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _at_once(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
                yield from _at_once(getattr(node, part, []))


def internal(path: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports from."""
    for name in imports(path):
        if name.startswith("softmaxnet."):
            local = name.removeprefix("softmaxnet.")
            while local and local not in MODULES:
                local = local.rpartition(".")[0]
            yield local or name


def part(module: str) -> str:
    """Return the part of the house that a module belongs to."""
    return module.partition(".")[0]


def test_every_module_has_its_place():
    """A new part of the house must be given a place in the order."""
    assert {part(module) for module in MODULES} - {""} <= set(ORDER)


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_a_module_imports_only_from_above(module):
    """No import, inside a function or for type checking either, goes up the house."""
    place = ORDER.index(part(module))
    for name in internal(MODULES[module]):
        if name == "softmaxnet.__version__":
            continue
        assert name in MODULES, f"{module} imports {name} from the package itself, which lies above everything"
        assert ORDER.index(part(name)) <= place, f"{module} imports {name}"


def test_no_two_files_need_each_other():
    """Within the packages too there is an order."""
    graph = {module: set(internal(path)) & set(MODULES) - {module} for module, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_load_late_and_where_they_belong(module):
    """Large libraries are imported inside functions, and each only in the parts whose business it is."""
    for name in imports(MODULES[module], at_once=True):
        library = name.partition(".")[0]
        assert library not in HEAVY or (part(module), library) in MAY_IMPORT_AT_ONCE, f"{module} loads {library}"
    for name in imports(MODULES[module]):
        library = name.partition(".")[0]
        if library == "torch" and _only_for_types(MODULES[module], "torch"):
            continue
        assert part(module) in MAY_IMPORT.get(library, {part(module)}), f"{module} imports {library}"


def _only_for_types(path: Path, library: str) -> bool:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    guarded = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    inside = {id(child) for node in guarded for child in ast.walk(node)}
    uses = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(part(alias.name) == library for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and part(node.module or "") == library)
    ]
    return all(id(node) in inside for node in uses)


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import softmaxnet", {"numpy", *HEAVY}),
        ("from softmaxnet import load_model, save_model, SoftmaxModel, DataError", HEAVY),
        ("import softmaxnet.cli", {"numpy", *HEAVY}),
    ],
)
def test_importing_loads_nothing_heavy(statement, forbidden):
    """The package, and loading a model, come without the libraries of training."""
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & forbidden
