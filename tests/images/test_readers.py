"""Formats that Pillow does not read, and limits of what is decoded."""

import base64
import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import skimage
import tifffile
from PIL import Image

from imgsim import IngestSettings
from imgsim.errors import ImageError, ImageUnavailable, NotAnImage
from imgsim.images import decode as decoding
from imgsim.images import jpeg as jpegs
from imgsim.images.decode import decode, dimensions, is_outdated, opened, sorted_out, thumbnail
from imgsim.images.extras import readable
from imgsim.images.frame import Frame
from imgsim.images.readers import jxl, svg, tiff
from imgsim.images.readers import picture as pictures
from imgsim.images.scan import find
from imgsim.images.source import decode_source
from imgsim.options import DecodeRules
from tests.conftest import GOLDEN

RED, BLUE, WHITE = (220, 30, 30), (30, 30, 220), (255, 255, 255)
PACKAGES = "pi_heif", "imagecodecs", "rawpy", "resvg_py"
SVG = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def picture(width=64, height=48) -> Image.Image:
    """A white picture that is red at its upper left and blue at its lower right."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(BLUE, (width // 2, height // 2, width, height))
    return image


def coffee() -> Image.Image:
    """A photograph of 600x400."""
    return Image.open(Path(skimage.__file__).parent / "data" / "coffee.png")


def jpeg(image, **options) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "JPEG", **options)
        return file.getvalue()


def write_jxl(path, pixels, **options) -> str:
    path.write_bytes(imagecodecs.jpegxl_encode(pixels, **options))
    return str(path)


def in_boxes(content, first) -> bytes:
    """Return a codestream of JPEG XL in two boxes, so many bytes in the first one."""
    parts = [content[:first], content[first:]]
    marks = 0, 1 << 31 | 1
    boxes = [struct.pack(">I4sI", 12 + len(parts[i]), b"jxlp", marks[i]) + parts[i] for i in (0, 1)]
    ftyp = struct.pack(">I4s4sI4s", 20, b"ftyp", b"jxl ", 0, b"jxl ")
    return b"\0\0\0\x0cJXL \r\n\x87\n" + ftyp + b"".join(boxes)


def write_svg(path, content, size='width="64" height="48"') -> str:
    path.write_text(f"<svg {SVG} {size}>{content}</svg>")
    return str(path)


def write_dng(path, preview=None, orientation=1, size=(128, 96)) -> str:
    """Write a raw file whose sensor saw red at the upper left; ``preview`` is the camera's JPEG."""
    width, height = size
    red = np.array([[3600, 300], [300, 300]]).repeat(2, 0)[::2]  # of a sensor in RGGB
    sensor = np.full((height, width), 1500, np.uint16)
    sensor[: height // 2, : width // 2] = np.tile(red, (height // 4, width // 4))
    matrix = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
    model: list[tuple[Any, ...]] = [
        (50706, 1, 4, (1, 4, 0, 0), True),
        (50708, 2, 0, "Model", True),
        (274, 3, 1, orientation, True),
        (50721, 10, 9, matrix, True),
    ]
    raw: list[tuple[Any, ...]] = [
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, (0, 1, 1, 2), True),
        (50717, 4, 1, 4095, True),
    ]
    with tifffile.TiffWriter(path) as file:
        if preview is not None:
            file.write(
                np.asarray(preview.convert("YCbCr")),
                photometric="ycbcr",
                compression="jpeg",
                subfiletype=1,
                subifds=1,
                extratags=model,
                metadata=None,
            )
        extratags = raw if preview is not None else model + raw
        file.write(sensor, photometric=32803, metadata=None, extratags=extratags)
    return str(path)


def without_dng_version(content) -> bytes:
    """Return a DNG as a raw file of another kind, whose first page is its preview."""
    tag = struct.pack("<HHI", 50706, 1, 4)
    assert content.count(tag) == 1
    return content.replace(tag, struct.pack("<HHI", 50707, 1, 4))


def check_picture(path, size=(64, 48), tolerance=4) -> None:
    """Check that a file shows the picture, upright, whichever way it is decoded."""
    small = thumbnail(str(path), 32)
    assert small.size == dimensions(str(path)) == size
    assert max(small.values.shape[:2]) == 32
    with opened(str(path)) as image:
        whole = image.decode(Frame(48, 64))
    assert whole.size == size
    for pixels in (small.values, whole.values, decode(str(path), Frame(48, 64))):
        for place, colour in (((3, 3), RED), ((-3, -3), BLUE), ((3, -3), WHITE)):
            assert np.abs(pixels[place].astype(int) - colour).max() <= tolerance


class TestHeif:
    """The golden files were made by pillow-heif, whose encoder is not installed here."""

    @pytest.mark.parametrize("name", ["picture", "turned"])
    def test_upright(self, name):
        """One is stored on its side, and says so twice: in its properties and in EXIF."""
        check_picture(GOLDEN / "heif" / f"{name}.heic")

    def test_transparent_is_on_white(self):
        pixels = decode(str(GOLDEN / "heif" / "alpha.heic"), Frame(48, 64))
        assert pixels[1, 1].min() > 230
        assert pixels[-2, -2, 2] > 200 > pixels[-2, -2, 0]

    def test_bytes_without_a_name(self):
        content = (GOLDEN / "heif" / "picture.heic").read_bytes()
        assert decode_source(content, "<bytes 0>", Frame(8, 8)).shape == (8, 8, 3)

    @pytest.mark.parametrize("kept", [30, 100, 400, -1])
    def test_cut(self, tmp_path, kept):
        path = tmp_path / "a.heic"
        path.write_bytes((GOLDEN / "heif" / "picture.heic").read_bytes()[:kept])
        with pytest.raises(ImageError) as raised:
            decode(str(path), Frame(8, 8))
        assert not isinstance(raised.value, ImageUnavailable | NotAnImage)

    @pytest.mark.parametrize("side", [0, 1, 9_000, 60_000, 2**32 - 1])
    def test_a_size_that_is_not_true(self, tmp_path, side):
        content = bytearray((GOLDEN / "heif" / "picture.heic").read_bytes())
        at = content.index(b"ispe") + 8
        content[at : at + 8] = struct.pack(">II", side, side)
        (tmp_path / "a.heic").write_bytes(content)
        with pytest.raises(ImageError):
            decode(str(tmp_path / "a.heic"), Frame(8, 8))


class TestJpegXl:
    @pytest.mark.parametrize("boxed", [False, True])
    @pytest.mark.parametrize("kind", ["u1", "u2"])
    def test_colours(self, tmp_path, kind, boxed):
        pixels = np.asarray(picture()).astype(kind) * (257 if kind == "u2" else 1)
        check_picture(write_jxl(tmp_path / "a.jxl", pixels, usecontainer=boxed))

    @pytest.mark.parametrize(
        "size", [(1, 1), (8, 8), (256, 512), (513, 7), (3, 2000), (1920, 1080), (640, 480)]
    )
    def test_size_is_known_before_the_pixels(self, tmp_path, size):
        pixels = np.zeros((*size[::-1], 3), np.uint8)
        assert dimensions(write_jxl(tmp_path / "a.jxl", pixels, effort=1)) == size

    def test_orientation(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        with io.BytesIO() as file:
            picture().transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", exif=exif, quality=95)
            (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode_jpeg(file.getvalue()))
        check_picture(tmp_path / "a.jxl")

    @pytest.mark.parametrize("bands", [1, 2, 4])
    def test_grey_and_transparent(self, tmp_path, bands):
        pixels = np.full((8, 8, bands), 100, np.uint8)
        if bands in {2, 4}:
            pixels[:, 4:, -1], pixels[:, :4, -1] = 0, 255
        decoded = decode(write_jxl(tmp_path / "a.jxl", pixels), Frame(8, 8))
        assert decoded[4, 1].tolist() == [100] * 3
        assert decoded[4, 6].tolist() == ([100] * 3 if bands == 1 else [255] * 3)

    def test_floats_are_stretched(self, tmp_path):
        ramp = np.tile(np.linspace(0.2, 0.4, 64, dtype=np.float32), (8, 1))
        decoded = decode(write_jxl(tmp_path / "a.jxl", ramp, lossless=True), Frame(8, 64))
        assert decoded[0, 0, 0] == 0
        assert decoded[0, -1, 0] == 255

    @pytest.mark.parametrize("kept", [2, 5, 12, 60, -10])
    @pytest.mark.parametrize("boxed", [False, True])
    def test_cut(self, tmp_path, boxed, kept):
        path = tmp_path / "a.jxl"
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        write_jxl(path, noise, usecontainer=boxed)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ImageError):
            decode(str(path), Frame(8, 8))

    def test_a_bomb(self, tmp_path):
        """A header of a small file says 1,073,741,824 x 1,073,741,824 pixels."""
        bits = 0b0 | 0b11 << 1 | (2**30 - 1) << 3 | 0b000 << 33 | 0b11 << 36 | (2**30 - 1) << 38
        (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bits.to_bytes(14, "little"))
        with pytest.raises(ImageError, match="1073741824x1073741824 pixels exceed the limit"):
            decode(str(tmp_path / "a.jxl"), Frame(8, 8))

    @pytest.mark.parametrize("first", [0, 1, 3, 9])
    def test_a_header_in_several_boxes(self, tmp_path, first):
        content = imagecodecs.jpegxl_encode(np.asarray(picture()))
        (tmp_path / "a.jxl").write_bytes(in_boxes(content, first))
        check_picture(tmp_path / "a.jxl")

    def test_a_bomb_in_several_boxes(self, tmp_path):
        """What follows the first box is not the header, whatever it looks like."""
        size = 0b11 << 1 | (2**30 - 1) << 3 | 0b11 << 36 | (2**30 - 1) << 38
        content = b"\xff\x0a" + size.to_bytes(14, "little")
        (tmp_path / "a.jxl").write_bytes(in_boxes(content, 5))
        with pytest.raises(ImageError, match="1073741824x1073741824 pixels exceed the limit"):
            decode(str(tmp_path / "a.jxl"), Frame(8, 8))

    @pytest.mark.parametrize(("kind", "bits"), [("u1", 8), ("u2", 12), ("f4", None)])
    def test_bytes_are_known_before_the_pixels(self, tmp_path, monkeypatch, kind, bits):
        pixels = np.ones((30, 77, 4), kind)
        path = write_jxl(tmp_path / "a.jxl", pixels, lossless=True, bitspersample=bits)
        for limit in (pixels.nbytes, pixels.nbytes - 1):
            monkeypatch.setattr(pictures, "_MOST_BYTES", limit)
            if limit < pixels.nbytes:
                with pytest.raises(ImageError, match=f"take {pixels.nbytes:,} bytes; the limit"):
                    decode(path, Frame(8, 8))
            else:
                decode(path, Frame(8, 8))

    def test_bands_beyond_colours_count(self, tmp_path):
        pixels = np.ones((60, 8, 8), np.uint8)
        path = write_jxl(tmp_path / "a.jxl", pixels, photometric="gray", planar=True)
        with open(path, "rb") as file:
            assert jxl._facts(jxl._header(file)) == ((8, 8), 62)

    def test_boxes_without_an_end(self, tmp_path):
        box = struct.pack(">I4s", 8, b"free")
        (tmp_path / "a.jxl").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + 50_000 * box)
        with pytest.raises(ImageError, match="no codestream"):
            decode(str(tmp_path / "a.jxl"), Frame(8, 8))


class TestRaw:
    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    @pytest.mark.parametrize("with_preview", [False, True])
    def test_upright(self, tmp_path, orientation, with_preview):
        """Red moves from the upper left as the camera was held."""
        preview = picture(128, 96) if with_preview else None
        path = write_dng(tmp_path / "a.dng", preview, orientation)
        upright = (96, 128) if orientation in {6, 8} else (128, 96)
        assert dimensions(path) == upright
        pixels = thumbnail(path, 64).values.astype(int)
        assert pixels.shape == (*(side // 2 for side in upright[::-1]), 3)
        redness = pixels[..., 0] - pixels[..., 2]
        corners = {1: (5, 5), 3: (-6, -6), 6: (5, -6), 8: (-6, 5)}
        assert redness[corners[orientation]] > 120
        assert all(redness[corners[other]] < 20 for other in {1, 3, 6, 8} - {orientation})

    def test_the_preview_is_taken_if_it_is_large_enough(self, tmp_path):
        path = write_dng(tmp_path / "a.dng", Image.new("RGB", (64, 48), "lime"))
        assert decode(path, Frame(32, 32))[16, 16].tolist() == pytest.approx([0, 255, 1], abs=3)
        assert decode(path, Frame(96, 96))[60, 60].tolist() != pytest.approx([0, 255, 1], abs=90)

    def test_a_preview_of_another_shape_is_not_taken(self, tmp_path):
        path = write_dng(tmp_path / "a.dng", Image.new("RGB", (96, 96), "lime"))
        assert decode(path, Frame(32, 32))[20, 20].tolist() != pytest.approx([0, 255, 1], abs=90)

    def test_bytes_without_a_name(self, tmp_path):
        content = Path(write_dng(tmp_path / "a.dng", picture(16, 12))).read_bytes()
        pixels = decode_source(content, "<bytes 0>", Frame(96, 96)).astype(int)
        assert pixels[8, 8, 0] - pixels[8, 8, 2] > 120

    @pytest.mark.parametrize("name", ["a.tif", "a.nef"])
    def test_without_the_suffix_of_a_camera(self, tmp_path, name):
        """Such a file is a TIFF of a preview, for which Pillow takes it."""
        path = Path(write_dng(tmp_path / name, picture(16, 12)))
        path.write_bytes(without_dng_version(path.read_bytes()))
        pixels = thumbnail(str(path), 96)
        assert pixels.size == (128, 96)
        assert pixels.values.shape == (72, 96, 3)

    @pytest.mark.parametrize("kept", [60, 400, 3_000])
    def test_cut(self, tmp_path, kept):
        path = Path(write_dng(tmp_path / "a.dng"))
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ImageError) as raised:
            decode(str(path), Frame(8, 8))
        assert not raised.value.reason.startswith("b'")

    def test_what_no_camera_writes(self, tmp_path):
        (tmp_path / "a.raf").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(2_000))
        with pytest.raises(ImageError, match="RAF: Unsupported file format"):
            decode(str(tmp_path / "a.raf"), Frame(8, 8))


class TestTiff:
    @pytest.mark.parametrize("compression", [None, "lzw", "zstd"])
    @pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u4"])
    def test_colours_of_wide_numbers(self, tmp_path, kind, compression):
        """The least and the greatest value of all bands become 0 and 255."""
        pixels = (np.asarray(picture()) - 30.0) * (1000 if kind == "u4" else 1 / 255)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, pixels.astype(kind), photometric="rgb", compression=compression)
        decoded = decode(str(path), Frame(48, 64))
        assert decoded[3, 3].tolist() == pytest.approx([215, 0, 0], abs=1)
        assert decoded[-3, 3].tolist() == [255, 255, 255]

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_five_bands_are_three(self, tmp_path, planar):
        five = np.dstack([np.asarray(picture()), np.asarray(picture())[..., :2] // 2])
        stored = five if planar == "contig" else np.ascontiguousarray(np.moveaxis(five, -1, 0))
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar)
        check_picture(path, tolerance=0)

    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("bands", [3, 4])
    def test_16_bits_band_after_band(self, tmp_path, bands, compression):
        """Pillow takes uncompressed ones for 8 bits."""
        colours = np.asarray(picture()).astype(np.uint16) * 257
        stored = np.dstack([colours, np.full((48, 64), 65_535, np.uint16)])[..., :bands]
        options = {"extrasamples": ["unassalpha"]} if bands == 4 else {}
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.ascontiguousarray(np.moveaxis(stored, -1, 0)),
            photometric="rgb",
            planarconfig="separate",
            compression=compression,
            **options,
        )
        check_picture(tmp_path / "a.tif", tolerance=0)

    @pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
    def test_white_is_zero_with_alpha(self, tmp_path, kind):
        most = 1.0 if kind == "f4" else np.iinfo(kind).max
        grey = np.zeros((8, 8, 2), kind)
        grey[:4, :, 0], grey[..., 1] = most, most
        grey[:, 6:, 1] = 0
        options = {"photometric": "miniswhite", "planarconfig": "contig"}
        tifffile.imwrite(tmp_path / "a.tif", grey, extrasamples=["unassalpha"], **options)
        decoded = decode(str(tmp_path / "a.tif"), Frame(8, 8))
        assert decoded[0, 1].tolist() == [0] * 3
        assert decoded[7, 1].tolist() == decoded[0, 7].tolist() == [255] * 3

    @pytest.mark.parametrize("bands", [2, 4])
    @pytest.mark.parametrize("kind", ["u2", "f4"])
    def test_colours_multiplied_by_alpha(self, tmp_path, bands, kind):
        """Black that is half transparent would be a quarter transparent if it counted twice."""
        most = 1.0 if kind == "f4" else 65_535
        pixels = np.full((8, 8, bands), most, kind)
        pixels[:, :4] = most / 4  # white, seen to a quarter
        pixels[0, :, :-1] = 0
        options = {"photometric": "minisblack" if bands == 2 else "rgb", "planarconfig": "contig"}
        expected = []
        for alpha in ("assocalpha", "unassalpha"):
            path = tmp_path / f"{alpha}.tif"
            tifffile.imwrite(path, pixels, extrasamples=[alpha], **options)
            expected.append(int(decode(str(path), Frame(8, 8))[4, 1, 0]))
        assert expected == [pytest.approx(255, abs=2), pytest.approx(207, abs=2)]

    def test_volumes_are_refused(self, tmp_path):
        options = {"photometric": "rgb", "volumetric": True, "tile": (16, 16, 16)}
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16, 16, 3), "f4"), **options)
        with pytest.raises(ImageError, match="volumes are not read"):
            decode(str(tmp_path / "a.tif"), Frame(8, 8))

    def test_bytes_are_limited(self, tmp_path, monkeypatch):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.asarray(picture()).astype("f8"), photometric="rgb")
        monkeypatch.setattr(pictures, "_MOST_BYTES", 64 * 48 * 3 * 8)
        decode(str(path), Frame(8, 8))
        monkeypatch.setattr(pictures, "_MOST_BYTES", 64 * 48 * 3 * 8 - 1)
        with pytest.raises(ImageError, match="take 73,728 bytes; the limit is 73,727"):
            decode(str(path), Frame(8, 8))

    def test_files_are_read_when_pixels_are(self, tmp_path):
        class Counted(io.BytesIO):
            read_in_all = 0

            def read(self, size=-1):
                content = super().read(size)
                self.read_in_all += len(content)
                return content

        contents = {
            "tiff": io.BytesIO(),
            "jxl": io.BytesIO(imagecodecs.jpegxl_encode(np.ones((99, 99, 3), np.uint8))),
            "svg": io.BytesIO(f"<svg {SVG} width='9' height='9'>{99999 * ' '}</svg>".encode()),
        }
        tifffile.imwrite(contents["tiff"], np.zeros((99, 99, 3), "f4"), photometric="rgb")
        read = {"tiff": tiff.read, "jxl": jxl.read, "svg": svg.read}
        for extra, content in contents.items():
            file = Counted(content.getvalue() + bytes(99_999) * (extra != "svg"))
            image = read[extra](file)
            assert file.read_in_all < 70_000
            image.load()

    def test_grey_with_alpha_of_16_bits(self, tmp_path):
        grey = np.full((8, 8, 2), 100 * 257, np.uint16)
        grey[:, :4, 1], grey[:, 4:, 1] = 65_535, 0
        options = {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(tmp_path / "a.tif", grey, extrasamples=["unassalpha"], **options)
        decoded = decode(str(tmp_path / "a.tif"), Frame(8, 8))
        assert decoded[4, 1].tolist() == [100] * 3
        assert decoded[4, 6].tolist() == [255] * 3

    def test_white_is_zero(self, tmp_path):
        ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float64), (8, 1))
        tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="miniswhite")
        decoded = decode(str(tmp_path / "a.tif"), Frame(8, 64))
        assert decoded[0, 0, 0] == 255
        assert decoded[0, -1, 0] == 0

    def test_orientation_and_big_tiff(self, tmp_path):
        turned = np.rot90(np.asarray(picture())).astype("f4")
        turned = np.dstack([turned, turned])  # six bands, or Pillow reads it
        options = {"photometric": "rgb", "bigtiff": True, "planarconfig": "contig"}
        tag = (274, 3, 1, 6, True)
        tifffile.imwrite(tmp_path / "a.tif", turned, extratags=[tag], **options)
        assert dimensions(str(tmp_path / "a.tif")) == (64, 48)
        decoded = decode(str(tmp_path / "a.tif"), Frame(48, 64))
        assert decoded[3, 3, 0] - int(decoded[3, 3, 2]) > 180

    def test_a_text_of_that_name_is_no_image(self, tmp_path):
        (tmp_path / "a.tif").write_text("hello")
        with pytest.raises(NotAnImage):
            decode(str(tmp_path / "a.tif"), Frame(8, 8))

    def test_pixels_that_are_not_there(self, tmp_path):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.asarray(picture()).astype("f4"), photometric="rgb")
        path.write_bytes(path.read_bytes()[:2_000])
        with pytest.raises(ImageError):
            decode(str(path), Frame(8, 8))


class TestSvg:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ('width="64" height="48"', (64, 48)),
            ('viewBox="0 0 64 48"', (64, 48)),
            ('viewBox="0 0 64 48" width="128"', (128, 96)),
            ('viewBox="0 0 64 48" height="1in"', (128, 96)),
            ('viewBox="0,0,64,48" width="100%" height="100%"', (64, 48)),
            ('viewBox="0 0 64 48" width="64e9" height="48e9"', (16_777_216, 12_582_912)),
            ("", (256, 192)),
        ],
    )
    def test_sizes(self, tmp_path, size, expected):
        shapes = (
            f'<rect width="32" height="24" fill="rgb{RED}"/>'
            f'<rect x="32" y="24" width="32" height="24" fill="rgb{BLUE}"/>'
        )
        path = write_svg(tmp_path / "a.svg", shapes, size)
        if size.startswith("width"):
            check_picture(path)
        assert thumbnail(path, 32).size == dimensions(path) == expected
        assert decode(path, Frame(30, 40)).shape == (30, 40, 3)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
    def test_encodings(self, tmp_path, encoding):
        declared = "<?xml version='1.0' encoding='UTF-16'?>" if encoding == "utf-16" else ""
        drawing = f"{declared}<svg {SVG} width='8' height='8'><rect width='8' height='8'/></svg>"
        (tmp_path / "a.svg").write_bytes(drawing.encode(encoding))
        assert not decode(str(tmp_path / "a.svg"), Frame(8, 8)).any()

    def test_it_is_drawn_as_large_as_wanted(self, tmp_path):
        path = write_svg(tmp_path / "a.svg", '<rect width="1" height="1"/>', 'width="2" height="2"')
        pixels = decode(path, Frame(200, 200))
        assert set(np.unique(pixels)) == {0, 255}

    def test_white_on_nothing_is_seen(self, tmp_path):
        path = write_svg(tmp_path / "a.svg", '<rect width="9" height="48" fill="white"/>')
        pixels = decode(path, Frame(48, 64))
        assert pixels[20, 3].tolist() == [255] * 3
        assert pixels[20, 40].tolist() == [0] * 3

    @pytest.mark.parametrize("form", ["image", "file", "filter", "nested"])
    def test_no_other_file_is_read(self, tmp_path, form):
        """The picture beside it would be red."""
        Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
        image = f'<image xlink:href="{tmp_path}/secret.png" width="64" height="48"/>'
        inner = f"<svg {SVG} width='64' height='48'>{image}</svg>"
        data = base64.b64encode(inner.encode()).decode()
        contents = {
            "image": image,
            "file": image.replace(str(tmp_path), f"file://{tmp_path}"),
            "filter": f'<filter id="f"><feImage href="{tmp_path}/secret.png"/></filter>'
            '<rect width="64" height="48" filter="url(#f)"/>',
            "nested": f'<image href="data:image/svg+xml;base64,{data}" width="64" height="48"/>',
        }
        path = write_svg(tmp_path / "a.svg", contents[form])
        pixels = decode(path, Frame(48, 64)).astype(int)
        assert (pixels[..., 0] - pixels[..., 1]).max() == 0

    def test_entities(self, tmp_path):
        (tmp_path / "secret").write_text("100")
        lines = "".join(f'<!ENTITY e{i + 1} "' + 10 * f"&e{i};" + '">' for i in range(9))
        for name, entities, use in (
            ("outside", f'<!ENTITY x SYSTEM "{tmp_path}/secret">', 'width="&x;"'),
            ("laughs", f'<!ENTITY e0 "1">{lines}', 'width="&e9;"'),
        ):
            path = tmp_path / f"{name}.svg"
            path.write_text(f"<!DOCTYPE svg [{entities}]><svg {SVG} height='9' {use}/>")
            with pytest.raises(ImageError):
                decode(str(path), Frame(8, 8))

    def test_what_would_take_hours_crash_or_fill_the_memory(self, tmp_path):
        group = "".join(
            f'<g id="u{i + 1}">' + 10 * f'<use href="#u{i}"/>' + "</g>" for i in range(9)
        )
        drawings = {
            "hours": '<filter id="f"><feTurbulence numOctaves="2000000000" baseFrequency=".1"/>'
            '</filter><rect width="64" height="48" filter="url(#f)"/>',
            "deep": 900 * '<g opacity=".9">' + '<rect width="9" height="9"/>' + 900 * "</g>",
            "many": f'<defs><rect id="u0" width="1" height="1"/>{group}</defs><use href="#u9"/>',
        }
        for name, content in drawings.items():
            path = write_svg(tmp_path / f"{name}.svg", content)
            with pytest.raises(ImageError, match=r"too long|too deep|nodes limit") as raised:
                decode(path, Frame(64, 64))
            assert not isinstance(raised.value, ImageUnavailable)

    def test_other_markup_is_no_image(self, tmp_path):
        page = "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><svg/></html>"
        for name in ("page.svg", "page.xml"):
            (tmp_path / name).write_text(page)
            with pytest.raises(NotAnImage):
                decode(str(tmp_path / name), Frame(8, 8))

    def test_bytes_without_a_name(self, tmp_path):
        content = Path(write_svg(tmp_path / "a.svg", '<rect width="64" height="48"/>')).read_bytes()
        assert not decode_source(content, "<bytes 0>", Frame(8, 8)).any()


def hide(monkeypatch) -> None:
    """Let the packages of the extras be as if they were not installed."""
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)


PIP = {
    "heif": "pi-heif",
    "jxl": "imagecodecs",
    "raw": "rawpy",
    "svg": "resvg-py",
    "tiff": "imagecodecs",
}


class TestExtras:
    @pytest.mark.parametrize(
        ("name", "head", "told", "extra"),
        [
            ("a.HEIC", b"\0\0\0\x14ftypheic", "HEIF", "heif"),
            ("phone", b"\0\0\0\x14ftypmif1", "HEIF", "heif"),
            ("a.heif", b"\0\0\0\x14ftypheif", "HEIF", "heif"),
            ("a.heif", b"\0\0\0\x18ftypnew \0\0\0\0mif1heic", "HEIF", "heif"),
            ("a.cr3", b"\0\0\0\x14ftypcrx ", "CR3", "raw"),
            ("a.raf", b"FUJIFILMCCD-RAW 0201", "RAF", "raw"),
            ("a.jxl", b"\xff\x0a", "JPEG XL", "jxl"),
            ("a.jxl", b"\0\0\0\x0cJXL \r\n", "JPEG XL", "jxl"),
            ("a.orf", b"IIRO", "ORF", "raw"),
            ("a.dng", b"II*\0", "DNG", "raw"),
            ("a.NEF", b"MM\0*", "NEF", "raw"),
            ("a.tif", b"II*\0\x10\0\0\0CR\2", "CR2", "raw"),
            ("a.tif", b"MM\0*", "a TIFF of this kind", "tiff"),
            ("a.svg", b"\n<svg width='9'", "SVG", "svg"),
        ],
    )
    def test_a_refusal_says_what_to_install(self, tmp_path, monkeypatch, name, head, told, extra):
        (tmp_path / name).write_bytes(head + bytes(99))
        hide(monkeypatch)
        reason = f"{told} is not read without {PIP[extra]}: `pip install 'imgsim[{extra}]'`"
        with pytest.raises(ImageError) as raised:
            decode(str(tmp_path / name), Frame(8, 8))
        assert raised.value.reason == reason
        assert not isinstance(raised.value, NotAnImage)
        paths, refused = sorted_out(find([str(tmp_path)]))
        assert (paths, [each.reason for each in refused]) == ([], [reason])

    @pytest.mark.parametrize(
        ("name", "head", "told"),
        [
            ("a.exr", b"v/1\x01", "OpenEXR"),
            ("a.xcf", b"gimp xcf v011", "XCF"),
            ("a", b"\0\0\0\x18ftypavci\0\0\0\0mif1heic", "HEIF with H.264 inside"),
            ("a", b"\0\0\0\x18ftypmif1\0\0\0\0mif1j2ki", "HEIF with JPEG 2000 inside"),
            ("a.hdr", b"#?RGBE\n", "Radiance HDR"),
            ("a.jxr", b"II\xbc\1", "JPEG XR"),
            ("a.jls", b"\xff\xd8\xff\xf7", "JPEG-LS"),
            ("a.svgz", b"\x1f\x8b\x08", "SVGZ"),
            ("a.wmf", b"\xd7\xcd\xc6\x9a", "WMF"),
            ("a.emf", b"\1\0\0\0" + bytes(36) + b" EMF", "EMF"),
        ],
    )
    def test_some_formats_nothing_reads(self, tmp_path, name, head, told):
        (tmp_path / name).write_bytes(head + bytes(99))
        with pytest.raises(ImageError, match=f"{told} is not read$"):
            decode(str(tmp_path / name), Frame(8, 8))

    @pytest.mark.parametrize(
        ("kind", "bands", "told"),
        [
            ("f4", 3, "a TIFF of 3 bands of 32-bit floats"),
            ("u1", 5, "a TIFF of 5 bands of 8-bit integers"),
        ],
    )
    def test_a_tiff_is_described(self, tmp_path, monkeypatch, kind, bands, told):
        pixels = np.zeros((8, 8, bands), kind)
        photometric = "rgb" if bands == 3 else "minisblack"
        options = {"photometric": photometric, "planarconfig": "contig"}
        tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
        hide(monkeypatch)
        with pytest.raises(ImageError, match=f"{told} is not read without"):
            decode(str(tmp_path / "a.tif"), Frame(8, 8))

    def test_a_small_preview_is_not_taken_for_a_raw_file(self, tmp_path, monkeypatch):
        path = write_dng(tmp_path / "a.dng", picture(16, 12))
        hide(monkeypatch)
        with pytest.raises(ImageError, match="DNG is not read without"):
            decode(path, Frame(8, 8))

    @pytest.mark.parametrize("package", ["", "pi-heif: "])
    def test_what_was_refused_for_a_package_is_tried_once_it_is_there(self, monkeypatch, package):
        reason = f"HEIF is not read without {package}`pip install 'imgsim[heif]'`"
        assert is_outdated(reason, DecodeRules())
        hide(monkeypatch)
        assert not is_outdated(reason, DecodeRules())

    def test_formats_that_are_only_recognised_are_not_listed(self):
        assert not {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"} & set(readable())

    def test_formats_that_are_read_here(self, monkeypatch):
        hide(monkeypatch)
        assert not {"HEIF", "JPEG XL", "RAW", "SVG"} & set(readable())
        monkeypatch.undo()
        assert {"HEIF", "JPEG XL", "RAW", "SVG", "JPEG", "PNG"} <= set(readable())

    def test_their_files_are_expected_to_be_images(self, tmp_path, monkeypatch):
        hide(monkeypatch)
        for suffix in ("heic", "HIF", "jxl", "svg", "dng", "cr3", "srw", "x3f"):
            (tmp_path / f"a.{suffix}").write_text("no picture")
        assert len(sorted_out(find([str(tmp_path)]))[1]) == 8

    def test_once_installed_the_next_ingest_reads_them(self, collection, tmp_path, monkeypatch):
        folder = tmp_path / "in"
        folder.mkdir()
        write_jxl(folder / "a.jxl", np.asarray(picture()))
        hide(monkeypatch)
        assert len(collection.ingest([folder]).refused) == 1
        assert len(collection.ingest([folder]).refused) == 1
        monkeypatch.undo()
        assert collection.ingest([folder], dry_run=True).added == 1
        assert collection.ingest([folder]).added == 1
        assert collection.refused() == []

    def test_packages_are_loaded_when_they_are_needed(self, tmp_path, crops):
        picture().save(tmp_path / "a.webp")
        code = (
            "import sys\nfrom imgsim.images.decode import decode\n"
            "from imgsim.images.frame import Frame\n"
            "from imgsim.images.extras import readable; readable()\n"
            "for path in sys.argv[1:]: decode(path, Frame(8, 8))\n"
            f"print({{*{PACKAGES}}} & {{*sys.modules}} or 'none')"
        )
        command = [sys.executable, "-c", code, crops[0], tmp_path / "a.webp"]
        assert subprocess.run(command, check=True, capture_output=True).stdout == b"none\n"


class TestLimits:
    def test_a_jpeg_counts_at_its_scale(self, tmp_path):
        path = tmp_path / "a.jpg"
        picture(800, 600).save(path)
        assert decode(str(path), Frame(64, 64), DecodeRules(100 * 75)).shape == (64, 64, 3)
        with opened(str(path), DecodeRules(100 * 75)) as image:
            assert image.decode(Frame(64, 64)).size == (800, 600)
        with pytest.raises(ImageError, match="800x600 pixels exceed the limit of 7500"):
            decode(str(path), Frame(400, 400), DecodeRules(100 * 75))

    @pytest.mark.parametrize("form", ["progressive", "sequential"])
    def test_a_jpeg_in_several_scans_counts_whole(self, tmp_path, form):
        """The library keeps the coefficients of all its pixels."""
        path = tmp_path / "a.jpg"
        picture(5_000, 4_000).save(path, progressive=form == "progressive", quality=20)
        content = path.read_bytes()
        if form == "sequential":  # the first scan is of one component
            at = content.index(b"\xff\xda")
            content = content[:at] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + content[at + 14 :]
            path.write_bytes(content)
        with pytest.raises(ImageError, match="5000x4000 pixels exceed the limit"):
            decode(str(path), Frame(64, 64), DecodeRules(10_000_000))

    def test_others_count_whole(self, tmp_path):
        path = tmp_path / "a.png"
        picture(800, 600).save(path)
        for act in (decode, thumbnail):
            side = Frame(64, 64) if act is decode else 64
            with pytest.raises(ImageError, match="800x600 pixels exceed the limit of 479999"):
                act(str(path), side, DecodeRules(479_999))
            act(str(path), side, DecodeRules(480_000))

    def test_more_than_pillow_allows(self, tmp_path):
        path = tmp_path / "a.tif"
        Image.new("1", (20_000, 9_000)).save(path, compression="group4")
        with pytest.raises(ImageError, match="--max-pixels"):
            decode(str(path), Frame(8, 8))
        assert not decode(str(path), Frame(8, 8), DecodeRules(180_000_000)).any()

    def test_an_ingest_with_another_limit(self, collection, tmp_path):
        picture(800, 600).save(tmp_path / "a.png")
        path = str(tmp_path / "a.png")
        small, large = IngestSettings(max_pixels=479_999), IngestSettings(max_pixels=480_000)
        assert len(collection.ingest(path, small).refused) == 1
        assert len(collection.ingest(path, small).refused) == 1
        assert collection.ingest(path, large).added == 1

    def test_a_limit_that_nothing_keeps(self, collection, tmp_path):
        with pytest.raises(ValueError, match="at least 1"):
            collection.ingest(tmp_path, IngestSettings(max_pixels=0))

    def test_grey_is_what_its_colours_would_be(self, tmp_path):
        grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500), np.uint8))
        for mode in ("L", "1"):
            grey.convert(mode).save(tmp_path / "a.png")
            grey.convert(mode).convert("RGB").save(tmp_path / "b.png")
            alone, coloured = (
                decode(str(tmp_path / f"{name}.png"), Frame(64, 64)) for name in "ab"
            )
            assert np.array_equal(alone, coloured)


class TestDamaged:
    ACCEPT = DecodeRules(accept_damaged=True)

    @pytest.mark.parametrize("suffix", ["jpg", "progressive.jpg", "png"])
    @pytest.mark.parametrize("orientation", [1, 6])
    def test_a_cut_file_is_read_as_far_as_it_goes(self, tmp_path, crops, suffix, orientation):
        whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"progressive": True} if suffix.startswith("prog") else {}
        with Image.open(crops[0]) as image:
            image.crop((0, 0, 96, 64)).save(whole, exif=exif, **options)
        path.write_bytes(whole.read_bytes()[: int(0.7 * whole.stat().st_size)])
        with pytest.raises(ImageError):
            decode(str(path), Frame(32, 32))
        with opened(str(path), self.ACCEPT) as image:
            cut = image.decode(Frame(64, 64))
        with opened(str(whole), self.ACCEPT) as image:
            complete = image.decode(Frame(64, 64))
        assert (cut.damaged, complete.damaged) == (True, False)
        assert cut.size == complete.size == ((96, 64) if orientation == 1 else (64, 96))
        first = np.s_[:16] if orientation == 1 else np.s_[:, -16:]
        assert np.abs(cut.values[first].astype(int) - complete.values[first]).mean() < 12
        assert thumbnail(str(path), 48, self.ACCEPT).damaged

    def test_a_damaged_png(self, tmp_path, crops):
        path = tmp_path / "a.png"
        with Image.open(crops[0]) as image:
            image.save(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x55
        path.write_bytes(content)
        with opened(str(path), self.ACCEPT) as image:
            damaged = image.decode(Frame(32, 32))
        assert damaged.damaged
        assert damaged.values[:8].any()

    @pytest.mark.parametrize("scans", [False, True])
    def test_nothing_at_all_is_refused(self, tmp_path, crops, scans):
        content = Path(crops[0]).read_bytes()
        start = content.index(b"\xff\xda") + 14
        (tmp_path / "a.jpg").write_bytes(content[: start if scans else 10])
        with pytest.raises(ImageError):
            decode(str(tmp_path / "a.jpg"), Frame(32, 32), self.ACCEPT)

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize(
        "options", [{}, {"optimize": True}, {"restart_marker_rows": 1}, {"progressive": True}]
    )
    @pytest.mark.parametrize("form", ["closed", "zeros", "zeros, closed", "few zeros"])
    def test_a_jpeg_that_libjpeg_fills_up(self, tmp_path, mode, options, form):
        """As an interrupted copy or a tool for lost files leaves it: libjpeg only warns."""
        if "progressive" in options and form == "closed":
            return  # this is not seen
        content = jpeg(coffee().convert(mode), **options)
        half = len(content) // 2
        zeros, end = bytes(half if form != "few zeros" else 2_000), b"\xff\xd9"
        kept = content[: len(content) - len(zeros)]
        path = tmp_path / "a.jpg"
        path.write_bytes(kept + (end if form == "closed" else zeros))
        if form == "zeros, closed":
            path.write_bytes(kept + zeros[2:] + end)
        for side in (32, 256):
            with pytest.raises(ImageError, match="truncated"):
                decode(str(path), Frame(side, side))
            with opened(str(path), self.ACCEPT) as image:
                assert image.decode(Frame(side, side)).damaged

    @pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
    @pytest.mark.parametrize("ground", [0, 127, 128, 255])
    @pytest.mark.parametrize("padding", [0, 99])
    def test_a_jpeg_that_ends_in_one_colour_is_whole(self, tmp_path, options, ground, padding):
        """With tables of its own, pixels of one colour may be zeros in the file."""
        path = tmp_path / "a.jpg"
        for mode in ("RGB", "L"):
            image = Image.new("RGB", (600, 900), (ground,) * 3).convert(mode)
            image.paste(coffee().convert(mode).crop((0, 0, 600, 300)))
            path.write_bytes(jpeg(image, **options) + bytes(padding))
            for side in (32, 256):
                with opened(str(path), self.ACCEPT) as opened_image:
                    assert not opened_image.decode(Frame(side, side)).damaged

    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_with_zeros_before_its_end_marker_is_whole(self, tmp_path, progressive):
        content = jpeg(coffee(), progressive=progressive)
        (tmp_path / "a.jpg").write_bytes(content[:-2] + bytes(99) + content[-2:])
        decode(str(tmp_path / "a.jpg"), Frame(32, 32))

    def test_usual_jpegs_are_decoded_once(self, tmp_path, crops, monkeypatch):
        times = []
        monkeypatch.setattr(jpegs, "identify", lambda *_: times.append(1))
        for path in crops:
            decode(path, Frame(64, 64))
        assert not times

    def test_several_large_cut_jpegs_are_in_memory_one_at_a_time(self, tmp_path, monkeypatch):
        """Decoded at a smaller scale they are small; tried at their own, they are not."""
        monkeypatch.setattr(decoding, "_LARGE_PIXELS", 400 * 300)
        content = jpeg(coffee())
        (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
        lock, sizes = decoding._LARGE, []
        monkeypatch.setattr(decoding, "render", lambda image, *_: spied(image))

        def spied(image):
            image.draft(None, image.size)
            sizes.append((image.size, lock._is_owned()))
            raise OSError

        with pytest.raises(ImageError):
            decode(str(tmp_path / "a.jpg"), Frame(32, 32))
        assert sizes[:2] == [((75, 50), False), ((600, 400), True)]

    def test_a_cut_jpeg_counts_whole_where_it_is_tried_at_its_own_scale(
        self, tmp_path, monkeypatch
    ):
        """Also where it was accepted once, and encoding it again has no limit."""
        content = jpeg(coffee())
        (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
        monkeypatch.setattr(decoding, "MAX_PIXELS", 600 * 400 - 1)
        sizes = []
        original = decoding.render
        monkeypatch.setattr(
            decoding,
            "render",
            lambda image, *form: sizes.append(image.size) or original(image, *form),
        )
        with opened(
            str(tmp_path / "a.jpg"), DecodeRules(sys.maxsize, accept_damaged=True)
        ) as image:
            assert image.decode(Frame(32, 32)).damaged
        assert max(sizes) < (600, 400)
