"""The house holds: imports go down only, files stay small, one idea each."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Packages, lowest first. A file may use its own package and those of earlier lines.
ORDER = [
    {"errors"},
    {"config"},
    {"config_values"},
    {"identity"},
    {"runtime", "models"},
    {"data"},
    {"recipes", "objectives"},
    {"runs"},
    {"costs"},
    {"evaluation"},
    {"inspection"},
    {"training", "serving"},
    {"studies"},
    {"api"},
    {"cli"},
    {"experiments"},
    {"tools"},
]

# The loop of `loop.train` reads in one piece; everything else fits a screen.
LONG_FUNCTIONS = {("vit_tf/training/loop.py", "train"): 90}
MAX_FUNCTION, MAX_FILE = 60, 400


def _files():
    for folder in ("vit_tf", "experiments", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix()


FILES = [name for name in _files() if not name.endswith("__init__.py")]


def _package(name):
    """`data` for vit_tf/data/images.py, `config` for vit_tf/config.py, `tools`."""
    top, second = name.removesuffix(".py").split("/")[:2]
    return second if top == "vit_tf" else top


def _rank(name):
    for rank, packages in enumerate(ORDER):
        if _package(name) in packages:
            return rank
    return None


def _tree(name):
    return ast.parse((ROOT / name).read_text())


def _imports(name):
    """Dotted names that a file imports, wherever in the file it does."""
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own(dotted):
    """The file of ours that `vit_tf.data.images` and the like stand for."""
    path = dotted.replace(".", "/")
    for candidate in (f"{path}.py", f"{path.rsplit('/', 1)[0]}.py"):
        if candidate in FILES:
            return candidate
    return None


@pytest.mark.parametrize("name", FILES)
def test_every_file_belongs_to_a_package_and_imports_only_downwards(name):
    assert _rank(name) is not None, f"{name}: no such package, add it to ORDER"
    for dotted in _imports(name):
        other = _own(dotted)
        if other and _package(other) != _package(name):
            assert _rank(other) < _rank(name), f"{name} imports {other}"


def test_there_is_no_import_circle():
    edges = {
        name: {o for o in map(_own, _imports(name)) if o and o != name}
        for name in FILES
    }
    while edges:
        free = [name for name, needs in edges.items() if not needs & edges.keys()]
        assert free, f"import circle among {sorted(edges)}"
        for name in free:
            del edges[name]


@pytest.mark.parametrize("name", FILES)
def test_experiments_know_configs_only(name):
    if not name.startswith("experiments/"):
        pytest.skip("not an experiment")
    for dotted in _imports(name):
        if dotted.startswith(("vit_tf", "experiments", "tools", "tensorflow", "keras")):
            assert dotted.startswith(
                (
                    "vit_tf.config",
                    "vit_tf.errors",
                    "vit_tf.recipes",
                    "vit_tf.data.vtab_splits",
                    "vit_tf.studies.experiment_spec",
                    "experiments.small",
                )
            ), f"{name} imports {dotted}"


@pytest.mark.parametrize(
    "name",
    [n for n in FILES if "/models/" in n or n.endswith("inspection/measures.py")],
)
def test_models_and_inspection_run_on_any_keras_backend(name):
    for dotted in _imports(name):
        assert not dotted.startswith(("tensorflow", "jax", "torch")), dotted
        if dotted.startswith("vit_tf"):
            assert dotted.startswith(
                ("vit_tf.errors", "vit_tf.config", "vit_tf.models")
            ), dotted


@pytest.mark.parametrize("name", FILES)
def test_tensorflow_addons_stands_apart(name):
    """It runs in an environment of its own, where nothing of ours does."""
    apart = "tools/addons_reference/"
    theirs = [d for d in _imports(name) if d.startswith("tensorflow_addons")]
    ours = [d for d in _imports(name) if _own(d)]
    assert not (ours if name.startswith(apart) else theirs)
    assert not [d for d in ours if _own(d).startswith(apart)]


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_fit(name):
    text = (ROOT / name).read_text()
    assert text.count("\n") <= MAX_FILE, f"{name} is too long: it has two ideas"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            limit = LONG_FUNCTIONS.get((name, node.name), MAX_FUNCTION)
            assert lines <= limit, f"{name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("name", FILES)
def test_files_open_with_their_idea(name):
    doc = ast.get_docstring(_tree(name))
    assert doc, f"{name} has no docstring"
    first = doc.splitlines()[0]
    assert len(first) <= 88 and first.endswith((".", "?", "`")), first


@pytest.mark.parametrize("name", FILES)
def test_functions_are_called_through_their_module(name):
    """`from vit_tf import module`, never `from vit_tf.module import function`."""
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vit_tf"):
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}".replace(".", "/")
                assert (ROOT / f"{dotted}.py").exists() or (ROOT / dotted).is_dir(), (
                    f"{name}: from {node.module} import {alias.name}"
                )


def test_the_reading_path_of_a_step_is_short_and_true():
    text = (ROOT / "WORKSPACE.md").read_text()
    path = text.split("## Reading path for one training step")[1].split("Off the path")[
        0
    ]
    steps = path.split("1. ", 1)[1]
    files = list(dict.fromkeys(re.findall(r"`(vit_tf/[\w/]+\.py)`", steps)))
    assert 6 <= len(files) <= 12
    assert sum(len((ROOT / f).read_text().splitlines()) for f in files) <= 2500
    named = re.findall(r"`(vit_tf/[\w/]+\.py)`\s+`([\w.]+)`", steps)
    assert len(named) >= len(files) - 2
    for file, symbol in named:
        assert symbol in set(_definitions(file)), f"{file} defines no {symbol}"


def _definitions(name):
    """Names that a file defines: functions, classes and `Class.method`."""
    for node in _tree(name).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef))
            yield from (f"{node.name}.{n.name}" for n in inner)


@pytest.mark.parametrize("name", FILES)
def test_nothing_needs_modules_that_windows_lacks(name):
    """The benchmark of memory does: it reads what the Linux kernel counts."""
    lacking = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
    if name != "tools/benchmarks/footprint.py":
        assert not lacking & set(_imports(name))


TESTS = [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "tests").rglob("*.py"))]


@pytest.mark.parametrize("name", TESTS)
def test_tests_use_public_names_of_ours(name):
    """What a test needs is worth a name; `_generate_examples` is TFDS' hook."""
    ours = {
        (alias.asname or alias.name)
        for node in ast.walk(_tree(name))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("vit_tf", "tools"))
        for alias in node.names
    }
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Attribute) and re.match(
            r"_[a-z]", node.attr, re.IGNORECASE
        ):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            is_ours = isinstance(root, ast.Name) and root.id in ours
            assert not is_ours, f"{name}:{node.lineno} uses {ast.unparse(node)}"


@pytest.mark.parametrize("name", FILES)
def test_docstrings_of_functions_begin_with_a_verb(name):
    """In the third person, so with an s: 'Returns', 'Draws'. Properties are nouns."""
    for node in ast.walk(_tree(name)):
        if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node):
            continue
        names = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
        if names & {"property", "cached_property"}:
            continue
        first = ast.get_docstring(node).split()[0].rstrip(".,:;")
        assert re.fullmatch(r"[A-Z][\w-]*[^'s]s|[A-Z][a-z]*sses|Passes", first), (
            f"{name}:{node.lineno} {node.name}: {first}"
        )


def test_nothing_is_called_utils():
    banned = {"utils.py", "common.py", "base.py", "helpers.py"}
    assert not [n for n in _files() if n.rsplit("/", 1)[-1] in banned]


def test_the_workspace_map_names_every_file_and_only_files():
    text = (ROOT / "WORKSPACE.md").read_text()
    missing = [n for n in FILES if n not in text and not n.startswith("experiments/r")]
    assert not missing, f"WORKSPACE.md does not name {missing}"
    for word in text.replace("`", " ").split():
        word = word.strip(".,:;()")
        ours = word.startswith(("vit_tf/", "experiments/", "tools/", "tests/"))
        if ours and word.endswith(".py") and "NAME" not in word:
            assert (ROOT / word).exists(), f"WORKSPACE.md names {word}"
