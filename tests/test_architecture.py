"""The promises about what is imported, and the wheel."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.models import write_projection
from tests.prepared import Prepared

ROOT = Path(__file__).parents[1]
LITE = ROOT / "requirements-lite.txt"
HEAVY = {"tensorflow", "keras", "tf2onnx", "torch"}


def imported(*arguments) -> set[str]:
    """Run the command and return the top-level modules that it imported."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\n', {m.partition('.')[0] for m in sys.modules}))\n"
        "from imgsim.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules: set[str] = set(eval(done.stdout.splitlines()[-1]))
    return modules


@pytest.fixture
def light(tmp_path) -> dict[str, str]:
    """An environment with what requirements-lite.txt asks for, and no other package."""
    site = tmp_path / "site"
    site.mkdir()
    pending, known = [*LITE.read_text().splitlines()[1:]], set()
    while pending:
        wanted = Requirement(pending.pop())
        if wanted.name in known or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        known.add(wanted.name)
        found = distribution(wanted.name)
        pending += found.requires or ()
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(found.locate_file(name))
    return os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}


def test_all_but_training_works_without_tensorflow(light, empty, crops, tmp_path):
    for number, path in enumerate(crops[:6]):
        folder = tmp_path / "labelled" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder)
    model = write_projection(tmp_path / "m.onnx")

    everything = [
        ["ingest", *crops[:3]],
        ["evaluate", tmp_path / "labelled", "--figure", tmp_path / "f.png"],
        ["encoder", "import", model, "--name", "mine"],
        ["reencode", "--encoder", "mine"],
        ["encoder", "use", "mine"],
        ["encoder", "list"],
        ["encoder", "show", "mine"],
        ["query", crops[0], "--figure", tmp_path / "f.png", "--html", tmp_path / "f.html"],
        ["export", "neighbours", "-o", tmp_path / "n.parquet"],
        ["export", "embeddings", "-o", tmp_path / "f.npz"],
        ["export", "index", "-o", tmp_path / "i.faiss"],
        ["info"],
        ["check"],
    ]
    with Prepared(light, ["-S"]) as process:
        for arguments in everything:
            done = process.run([*map(str, ["-c", empty, *arguments])], tmp_path)
            assert done.returncode == 0, (arguments, done.stderr)
        done = process.run(["-c", str(empty), "train", *crops], tmp_path)
    assert done.returncode == 30
    assert done.stderr.splitlines()[-1] == (
        b"imgsim: error: this needs TensorFlow, and tensorflow is not installed: "
        b"pip install tensorflow keras tf2onnx"
    )


def test_a_light_install_lacks_tensorflow_alone():
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    light = LITE.read_text().splitlines()[1:]
    assert {Requirement(line).name for line in set(whole) - set(light)} == {*HEAVY} - {"torch"}
    assert set(light) <= set(whole)


def test_windows_is_told(tmp_path):
    code = "import sys; sys.platform = 'win32'; import imgsim"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(b"on Windows it runs in WSL 2")


def test_nothing_that_only_linux_has():
    """But what is asked for where it is."""
    only_linux = {
        *("sched_getaffinity", "posix_fadvise", "posix_fallocate", "copy_file_range", "splice"),
        *("memfd_create", "eventfd", "pidfd_open", "O_DIRECT", "O_TMPFILE", "O_PATH", "prctl"),
    }
    for path in (ROOT / "imgsim").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not names & only_linux, path


@pytest.mark.parametrize("mistake", [["nosuch"], ["."], [".", "--resume"]])
def test_a_mistake_is_told_before_tensorflow_is_imported(tmp_path, mistake):
    """Without an image, or a training to resume."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('tensorflow' in sys.modules))\n"
        "from imgsim.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "-c", tmp_path / "c", "train", *mistake]
    (tmp_path / "empty").mkdir()
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path / "empty")
    assert done.returncode == 30, done.stderr
    assert done.stdout == b"False\n"
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["empty"]


def test_help_imports_almost_nothing():
    loaded = imported("--help")
    assert (
        loaded & (HEAVY | {"numpy", "PIL", "sqlalchemy", "onnxruntime", "faiss", "rich"}) == set()
    )


def test_a_query_imports_only_what_it_needs(empty, crops):
    loaded = imported("-c", empty, "query", crops[0])
    assert loaded & {"faiss", "matplotlib", "pyarrow", "alembic", "rich"} == set()


def modules() -> list[Path]:
    found = sorted((ROOT / "imgsim").rglob("*.py"))
    assert len(found) > 50
    return found


@pytest.mark.parametrize("limit", [400])
def test_modules_are_short(limit):
    lengths = {str(path): len(path.read_text().splitlines()) for path in modules()}
    assert {name: n for name, n in lengths.items() if n > limit} == {}


@pytest.mark.parametrize("limit", [40])
def test_functions_are_short(limit):
    """Commands apart, which have a line for each option."""
    lengths = {
        f"{path}:{node.name}": node.end_lineno - node.body[0].lineno + 1
        for path in modules()
        if path.parent.name != "cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: n for name, n in lengths.items() if n > limit} == {}


def test_the_index_imports_numpy_numba_and_xxhash_only():
    """The contract names what it may not import; this, what it may."""
    allowed = {"numpy", "numba", "llvmlite", "xxhash", "imgsim"} | sys.stdlib_module_names
    found = set()
    for path in (ROOT / "imgsim" / "index").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    assert "numba" in found
    assert found <= allowed


def test_the_tests_mirror_the_rooms():
    places = [path.relative_to(ROOT / "imgsim").parts for path in modules()]
    rooms = {parts[0] for parts in places if len(parts) > 1}
    assert rooms == {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}


def lint_imports(folder) -> subprocess.CompletedProcess[str]:
    """Check the contracts on a copy of the package."""
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [command, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "imports", "contract"),
    [
        ("index/planted", "sqlalchemy", "The index needs NumPy, numba, xxhash and nothing else"),
        ("index/planted", "imgsim.catalog.snapshot", "Rooms import downwards"),
        ("jobs/planted", "keras", "Only training imports TensorFlow and Keras"),
        ("output/planted", "rich", "Only the command line imports typer and rich"),
        ("catalog/planted", "imgsim.jobs.ingest", "Rooms import downwards"),
        ("planted", "json", "Rooms import downwards"),
        ("evaluation/planted", "json", "Modules of the evaluation import downwards"),
    ],
)
def test_a_wrong_import_in_a_new_module_is_noticed(tmp_path, module, imports, contract):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "imgsim", tmp_path / "imgsim", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "imgsim" / f"{module}.py").write_text(f"import {imports}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout


def test_the_package_keeps_its_contracts():
    assert lint_imports(ROOT).returncode == 0


def test_the_wheel_works_in_a_fresh_environment(tmp_path, crops):
    """Build the wheel, install it with its dependencies elsewhere, and run the command there."""
    uv = [sys.executable, "-m", "uv"]

    def run(command, **options):
        return subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, **options)

    run([*uv, "build", "--wheel", "--out-dir", tmp_path / "dist", ROOT])
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "imgsim/migrations/versions/0001_first.py" in names
    assert "imgsim/py.typed" in names
    assert "imgsim/output/assets/map_view.js" in names
    assert not [name for name in names if name.startswith(("tests", "migrations", "scripts"))]

    python = tmp_path / "venv" / "bin" / "python"
    run([*uv, "venv", "--python", sys.executable, tmp_path / "venv"])
    constraints = ROOT / "constraints.txt"
    run([*uv, "pip", "install", "--python", python, "-c", constraints, wheel])
    command = tmp_path / "venv" / "bin" / "imgsim"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    folder = os.path.dirname(crops[0])
    for arguments in (
        ["train", folder, "--image-size", "32", "--epochs", "1"],
        ["ingest", folder],
        ["query", crops[0], "-k", "1", "--format", "paths"],
    ):
        done = run([command, *arguments], env=environment)
    assert done.stdout.decode().strip() == crops[0]
    (tmp_path / ".imgsim" / "catalog.db").stat()
