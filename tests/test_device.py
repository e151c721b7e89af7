"""Which device computes. There is no GPU here: the choice is tested, and what it falls back to."""

import logging
from pathlib import Path

import onnxruntime
import pytest

from imgsim import Collection
from imgsim.device import fall_back, has_driver
from imgsim.encoder.onnx_model import devices

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
WARNING = "there is no CUDA for embeddings here, so the CPU does it"

no_gpu = pytest.mark.skipif(has_driver(), reason="there is a GPU")


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """An ONNX Runtime that has CUDA; the providers that each session asks for."""
    found = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc] # ONNX Runtime ships no types
        def __init__(self, content, options, providers):
            found.append([each if isinstance(each, str) else each[0] for each in providers])
            super().__init__(content, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    fall_back.cache_clear()
    return found


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_the_cpu_makes_embeddings_unless_cuda_is_asked_for(asked, empty, crops, device, caplog):
    with Collection.open(empty, device=device) as collection, caplog.at_level(logging.WARNING):
        assert collection.ingest(crops[:3]).added == 3
        (result,) = collection.query([crops[0]], 1)
    assert result.matches[0].distance == 0.0
    expected = [CUDA, CPU] if device == "cuda" else [CPU]
    assert asked
    assert all(each == expected for each in asked)
    told = [record.getMessage() for record in caplog.records]
    assert told == ([WARNING] if device == "cuda" else [])  # once, whatever the number of sessions


def test_a_provider_that_is_not_installed_is_not_asked_for(empty, crops, caplog):
    """ONNX Runtime would warn, and here a warning is an error."""
    fall_back.cache_clear()
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("it is installed")
    with Collection.open(empty, device="cuda") as collection:
        assert collection.ingest(crops[:3]).added == 3
    assert [record.getMessage() for record in caplog.records] == [WARNING]


def test_devices_need_a_provider_and_a_driver(monkeypatch, asked):
    monkeypatch.setattr("imgsim.device._DRIVERS", (Path("/none"),))
    assert devices() == ("cpu",)
    monkeypatch.setattr("imgsim.device._DRIVERS", (Path("/none"), Path("/")))
    assert devices() == ("cpu", "cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    assert devices() == ("cpu",)


def test_other_devices(tmp_path):
    with pytest.raises(ValueError, match="tpu: must be one of auto, cpu, cuda"):
        Collection.open(tmp_path / "c", create=True, device="tpu")
    assert not (tmp_path / "c").exists()


@no_gpu
def test_the_command_falls_back_with_a_line(imgsim, empty, crops, monkeypatch):
    line = f"imgsim: warning: {WARNING}\n".encode()
    assert imgsim("-c", empty, "--device", "cuda", "ingest", *crops[:3]).stderr.startswith(line)
    done = imgsim("-c", empty, "query", crops[0], "--device", "cuda")
    assert (done.returncode, done.stderr) == (0, line)
    monkeypatch.setenv("IMGSIM_DEVICE", "cuda")
    assert imgsim("-c", empty, "query", crops[0]).stderr == line
    assert imgsim("-c", empty, "query", crops[0], "--device", "cpu").stderr == b""
    assert imgsim("-c", empty, "query", crops[0], "--device", "tpu").returncode == 2
    assert b"devices          cpu\n" in imgsim("-c", empty, "info").stdout


@no_gpu
def test_a_training_falls_back_with_a_line(imgsim, tmp_path, crops):
    options = "--recipe", "plain", "--image-size", "32", "--epochs", "1", "--device", "cuda"
    done = imgsim("-c", tmp_path / "c", "train", *crops[:4], *options)
    assert done.returncode == 0
    line = b"imgsim: warning: there is no CUDA for training here, so the CPU does it\n"
    assert done.stderr.count(line) == 1
