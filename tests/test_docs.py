"""The documentation is run, or compared with what it describes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import imgsim
from imgsim import errors
from imgsim.index.segment_file import write_segment
from tests.models import write_projection

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# Runs a script whose print begins each line with the number of its own line.
NUMBERED = """
import builtins, sys

def print_numbered(*values):
    builtins.print(sys._getframe(1).f_lineno, *values)

code = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
exec(code, {"__name__": "guide", "print": print_numbered})
"""


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def as_script(name: str) -> str:
    """Return the Python blocks of a document, each in its own lines, and all else empty."""
    lines, inside = [], False
    for line in (ROOT / name).read_text().splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


@pytest.fixture
def folder(tmp_path, pictures) -> Path:
    """A folder with what the documents ask for: photos, labelled, model.onnx, list.txt."""
    pictures.rename(tmp_path / "photos")
    (tmp_path / "photos" / "chelsea-0.jpg").rename(tmp_path / "photos" / "cat.jpg")
    for path in sorted((tmp_path / "photos").iterdir()):
        label = tmp_path / "labelled" / path.name.partition("-")[0].removesuffix(".jpg")
        label.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, label)
    write_projection(tmp_path / "model.onnx")
    (tmp_path / "list.txt").write_text("photos/cat.jpg\nphotos/rocket-1.jpg\n")
    return tmp_path


def run(folder: Path, *command) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    environment.pop("IMGSIM_COLLECTION", None)
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def run_shell_blocks(folder: Path, name: str, options: str) -> str:
    """Run the shell blocks of a document in order; return what they print.

    The training gets ``options`` that make it short.
    """
    shown = ""
    for block in blocks(name, "sh"):
        shorter = block.replace("imgsim train photos", f"imgsim train photos {options}")
        done = run(folder, "bash", "-euc", shorter)
        shown += done.stdout + done.stderr
    return shown


def test_the_readme_does_what_it_says(folder):
    shown = run_shell_blocks(folder, "README.md", "--epochs 5")
    assert "36 files: 36 added" in shown
    for name in ("matches.png", "neighbours.parquet"):
        assert (folder / name).stat().st_size > 1_000
    (code,) = blocks("README.md", "python")
    printed = run(folder, sys.executable, "-c", code).stdout.splitlines()
    assert printed[0] == f"1 0.0 {folder}/photos/cat.jpg"
    assert len(printed) == 3


def test_the_quickstart_does_what_it_says(folder):
    plain = "--recipe plain --epochs 1 --image-size 32"
    shown = run_shell_blocks(folder, "docs/quickstart.md", plain)
    counts = "1 added, 0 changed, 0 moved, 36 unchanged, 0 refused, 0 unreachable, 0 not images"
    assert f"37 files: {counts}" in shown
    assert "relocated: 37 images" in shown
    assert "37 files: 0 added, 0 changed, 37 moved" in shown
    assert shown.count("forgotten: 1 images") == 3  # prune would, prune does, remove does
    assert "the encoder is mine now" in shown
    assert "every file is as the catalog says" in shown
    for name in (
        "matches.png",
        "matches.html",
        "neighbours.parquet",
        "embeddings.npz",
        "embeddings.faiss",
        "sheet.png",
    ):
        assert (folder / name).stat().st_size > 1_000


def test_the_guide_prints_what_it_says(folder):
    script = as_script("docs/python.md")
    (folder / "guide.py").write_text(script)
    done = run(folder, sys.executable, "-c", NUMBERED, "guide.py")
    lines = enumerate(script.splitlines(), start=1)
    told = {n: line.partition("  # ")[2] for n, line in lines if "print(" in line}
    printed = (line.partition(" ") for line in done.stdout.splitlines())
    assert {int(number): text for number, _, text in printed} == told
    assert "imgsim.index.searcher: scanning" in done.stderr


def test_the_guide_and_the_reference_have_every_public_name():
    script, reference = as_script("docs/python.md"), (ROOT / "docs" / "reference.md").read_text()
    for name in imgsim.__all__:
        assert re.search(rf"\bimgsim\.{name}\b", script), name
        assert re.search(rf"^\.\. \S+:: (imgsim\.)?{name}$", reference, re.MULTILINE), name


def test_the_readme_lists_every_exit_code():
    table = (ROOT / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    told = {int(code) for code in re.findall(r"\| (\d+) \|", table)}
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    codes = {c.exit_code for c in classes if issubclass(c, errors.ImgsimError)}
    assert told == codes | {0, 2, 130}


def test_the_decoder_of_the_format_reads_a_segment(tmp_path):
    (code,) = blocks("docs/format.md", "python")
    namespace = {}
    exec(code, namespace)
    embeddings = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    write_segment(tmp_path / "a.faiss", embeddings)
    assert namespace["read_segment"](tmp_path / "a.faiss").tobytes() == embeddings.tobytes()


def test_the_reference_of_the_command_is_current(tmp_path):
    options = ["--name", "imgsim", "--title", "The imgsim command", "--output", tmp_path / "cli.md"]
    run(tmp_path, BIN / "typer", "imgsim.cli.main", "utils", "docs", *options)
    assert (tmp_path / "cli.md").read_text() == (ROOT / "docs" / "cli.md").read_text()


def test_the_site_builds_without_a_warning(tmp_path):
    options = ["--quiet", "-W", "--keep-going", "-d", tmp_path / "doctrees"]
    run(tmp_path, BIN / "sphinx-build", *options, ROOT / "docs", tmp_path / "site")
    assert (tmp_path / "site" / "reference.html").stat().st_size > 10_000


def test_links_between_documents_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"
