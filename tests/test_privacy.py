"""Nothing leaves the machine, and nothing is left behind: README promises it."""

import ctypes
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys

import pytest
from typer.main import get_command

from imgsim.cli.main import app
from tests.models import write_projection
from tests.prepared import Prepared

CALLS = {  # connect, sendto, sendmsg, sendmmsg: their numbers
    "x86_64": (42, 44, 46, 307),
    "aarch64": (203, 206, 211, 269),
}
KILL, ALLOW = 0x80000000, 0x7FFF0000


def forbid_sending() -> None:
    """Let the kernel kill this process, and what it starts, if it connects or sends to anything."""
    calls = CALLS[platform.machine()]
    program = [
        (0x20, 0, 0, 0),  # load the number of the call
        *((0x15, len(calls) - place, 0, call) for place, call in enumerate(calls)),
        (0x06, 0, 0, ALLOW),
        (0x06, 0, 0, KILL),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, ctypes.create_string_buffer(filters), 0, 0) == 0, ctypes.get_errno()


def commands(group, before=""):
    """Yield the name of each command, with those of its groups before it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def environment(home) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {"HOME": str(home)}


def run(command, home) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*map(str, command)],
        env=environment(home),
        cwd=home.parent,
        capture_output=True,
        check=False,
        preexec_fn=forbid_sending,
    )


@pytest.mark.parametrize(
    "does",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.getaddrinfo('example.org', 80)",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    ],
)
def test_the_trap_closes(tmp_path, does):
    done = run([sys.executable, "-c", f"import socket; {does}"], tmp_path / "home")
    assert done.returncode == -signal.SIGSYS


def test_no_command_connects_or_writes_into_the_home_folder(tmp_path, pictures):
    for path in sorted(pictures.iterdir()):
        folder = tmp_path / "labelled" / path.name.partition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    first, second = sorted(pictures.iterdir())[:2]
    model = write_projection(tmp_path / "model.onnx")
    manifest = tmp_path / "moved.imgsim.jsonl"
    manifest.write_text('{"format": 1, "act": "move", "collection": "", "token": "00000000"}\n')
    home, done = tmp_path / "home", set[str]()
    everything = [
        ["train", pictures, "--epochs", "1", "--image-size", "32"],
        ["ingest", pictures],
        ["query", first, "--figure", tmp_path / "f.png", "--html", tmp_path / "f.html"],
        ["evaluate", tmp_path / "labelled", "--figure", tmp_path / "sheet.png"],
        ["export", "neighbours", "-o", tmp_path / "n.parquet"],
        ["export", "neighbors", "-o", tmp_path / "n.csv"],
        ["export", "embeddings", "-o", tmp_path / "e.npz"],
        ["export", "index", "-o", tmp_path / "i.faiss"],
        ["map", "-o", tmp_path / "map.html", "-o", tmp_path / "map.png"],
        ["encoder", "import", model, "--name", "other"],
        ["encoder", "pretrained"],
        ["encoder", "adapt", "other", pictures, "--int8", "--dims", "8"],
        ["encoder", "list"],
        ["encoder", "show", "other"],
        ["reencode", "--encoder", "other"],
        ["encoder", "use", "other"],
        ["relocate", pictures, tmp_path / "else", "--force"],
        ["relocate", tmp_path / "else", pictures],
        ["duplicates", "--radius", "1", "--html", tmp_path / "d.html"],
        ["duplicates", "ignore", first, second],
        ["duplicates", "ignored"],
        ["duplicates", "unignore", first, second],
        ["leaks", pictures, tmp_path / "labelled", "--radius", "1"],
        ["outliers", "--html", tmp_path / "o.html"],
        ["mislabelled", tmp_path / "labelled", "-k", "3"],
        ["sample", "-n", "3", "-o", tmp_path / "sample.txt"],
        ["clusters", "--count", "3"],
        ["prune"],
        ["restore", manifest],
        ["remove", first],
        ["compact"],
        ["encoder", "import", model, "--name", "third", "--normalize"],
        ["encoder", "remove", "third"],
        ["info"],
        ["check", "--deep", "--repair"],
    ]
    with Prepared(environment(home), before=forbid_sending) as process:
        for arguments in everything:
            ended = process.run([*map(str, ["-c", tmp_path / "c", *arguments])], tmp_path)
            assert ended.returncode == 0, (arguments, ended.stderr)
            done |= {" ".join(map(str, arguments[:count])) for count in (1, 2)}
            written = {str(path.relative_to(home)) for path in home.rglob("*")}
            assert all(f"{name}/".startswith((".cache/imgsim/", ".cache/")) for name in written)
            assert {name.split("/")[1] for name in written if "/" in name} <= {"imgsim"}, arguments
    connecting = {"serve", "export milvus"}  # one answers: tests/server; one is to a server's use
    assert set(commands(get_command(app))) - connecting <= done


def test_the_library_is_as_silent(tmp_path, empty, crops):
    code = (
        "import sys, imgsim\n"
        "with imgsim.Collection.open(sys.argv[1]) as collection:\n"
        "    collection.ingest(sys.argv[2:])\n"
        "    collection.query(sys.argv[2])\n"
    )
    done = run([sys.executable, "-c", code, empty, *crops[:3]], tmp_path / "home")
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.listdir(tmp_path / "home") == []


def test_tensorflow_says_nothing_to_who_trains_from_python(tmp_path, empty, crops):
    code = (
        "import os, sys, imgsim\n"
        "settings = imgsim.TrainingSettings(epochs=1, image_size=32)\n"
        "with imgsim.Collection.open(sys.argv[1]) as collection:\n"
        "    collection.train(sys.argv[2:], settings)\n"
        "import tensorflow\n"
        "tensorflow.get_logger().warning('of a fifth training')\n"
        "os.write(2, b'heard')\n"
    )
    done = run([sys.executable, "-c", code, empty, *crops[:3]], tmp_path / "home")
    assert (done.returncode, done.stderr) == (0, b"heard")
