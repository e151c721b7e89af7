"""The documentation is run, or compared with what it describes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from imgsim import errors
from imgsim.index.segment_file import write_segment
from tests.models import write_projection

ROOT = Path(__file__).parents[1]


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_the_readme_does_what_it_says(tmp_path, pictures):
    """Run its shell and Python blocks in a folder that has `photos`, in order."""
    pictures.rename(tmp_path / "photos")
    (tmp_path / "photos" / "chelsea-0.jpg").rename(tmp_path / "photos" / "cat.jpg")
    for path in sorted((tmp_path / "photos").iterdir()):
        folder = tmp_path / "labelled" / path.name.partition("-")[0].removesuffix(".jpg")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    write_projection(tmp_path / "model.onnx")
    (tmp_path / "list.txt").write_text("photos/cat.jpg\nphotos/rocket-1.jpg\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("IMGSIM_COLLECTION", None)
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    shown = ""
    for block in blocks("README.md", "sh"):
        shorter = block.replace("imgsim train photos", "imgsim train photos --epochs 5")
        done = subprocess.run(["bash", "-euc", shorter], check=False, **options)
        assert done.returncode == 0, done.stderr
        shown += done.stdout + done.stderr
    counts = "1 added, 0 changed, 0 moved, 36 unchanged, 0 refused, 0 unreachable, 0 not images"
    assert f"37 files: {counts}" in shown
    for name in (
        "matches.png",
        "matches.html",
        "neighbours.parquet",
        "features.npz",
        "vectors.faiss",
        "sheet.png",
    ):
        assert (tmp_path / name).stat().st_size > 1_000
    (code,) = blocks("README.md", "python")
    done = subprocess.run([sys.executable, "-c", code], check=False, **options)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0] == "36 added 0 refused"
    assert printed[1] == f"1 0.0 {tmp_path}/photos/cat.jpg"
    assert len(printed) == 1 + 3 + 36


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
    typer = shutil.which("typer", path=str(Path(sys.executable).parent))
    subprocess.run(
        [typer, "imgsim.cli.main", "utils", "docs", *options], check=True, capture_output=True
    )
    assert (tmp_path / "cli.md").read_text() == (ROOT / "docs" / "cli.md").read_text()


def test_links_between_documents_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"
