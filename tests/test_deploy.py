"""What builds and runs imgsim in containers, as far as that can be seen without any."""

import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[1]
DEPLOY = TOP / "docs" / "deploy"


def test_the_wheel_builds_from_what_the_image_gets(tmp_path):
    """The file beside the Dockerfile keeps all else out of it."""
    taken = DEPLOY.joinpath("Dockerfile.dockerignore").read_text().split()
    assert taken[0] == "**"
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    for name in taken[1:]:
        path, target = TOP / name.removeprefix("!"), source / name.removeprefix("!")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, target)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA")))
    assert any(name.endswith("env.py") and "migrations" in name for name in names)
    dockerfile = DEPLOY.joinpath("Dockerfile").read_text()
    extras = dockerfile.partition("[")[2].partition("]")[0].split(",")
    for extra in extras:
        assert f"Provides-Extra: {extra}\n".encode() in metadata


@pytest.mark.parametrize("service", ["head", "worker"])
def test_the_commands_of_the_cluster_are_rays(service):
    services = yaml.safe_load(DEPLOY.joinpath("compose.yaml").read_text())["services"]
    command = services[service]["entrypoint"]
    told = subprocess.run(
        [Path(sys.executable).with_name("ray"), "start", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert command[:2] == ["ray", "start"]
    for option in command[2:]:
        assert option.partition("=")[0] in shlex.split(told, posix=False)


@pytest.mark.parametrize("verb", ["submit", "logs"])
def test_the_commands_of_a_job_are_rays(verb):
    lines = TOP.joinpath("docs", "cluster.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"ray job {verb} "))
    options, _, command = line.partition(" -- ")
    told = subprocess.run(
        [Path(sys.executable).with_name("ray"), "job", verb, "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    known = set(told.replace(",", " ").split())
    named = {each.partition("=")[0] for each in options.split() if each.startswith("--")}
    assert named
    assert named <= known
    assert (verb == "submit") == command.startswith("imgsim ")


def test_the_image_is_built_from_the_top_of_the_repository():
    services = yaml.safe_load(DEPLOY.joinpath("compose.yaml").read_text())["services"]
    build = services["imgsim"]["build"]
    assert (DEPLOY / build["context"]).resolve() == TOP
    assert (TOP / build["dockerfile"]).is_file()
    assert set(services["head"]["networks"]) == {"inside"}
    assert "ports" not in services["head"], "whoever reaches them runs code"
