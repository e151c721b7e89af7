import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgsim.errors import ImageError, ImageUnavailable, NotAnImage
from imgsim.images.decode import (
    decode,
    decode_open,
    dimensions,
    opened,
    sorted_out,
    thumbnail,
)
from imgsim.images.frame import Frame
from imgsim.images.scan import Notes, find
from imgsim.options import MAX_PIXELS
from imgsim.records import ImageFile


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def solid(mode, colour, size=(40, 30)):
    return Image.new(mode, size, colour)


def found_paths(roots, **options):
    return [item.path for item in find(map(str, roots), **options) if isinstance(item, ImageFile)]


class TestDecode:
    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("RGB", (10, 200, 30), (10, 200, 30)),
            ("L", 77, (77, 77, 77)),
            ("1", 1, (255, 255, 255)),
            ("LA", (0, 0), (255, 255, 255)),
            ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
            ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
            ("I;16", 0x8000, (128, 128, 128)),
            ("I;16", 0xFFFF, (255, 255, 255)),
        ],
    )
    def test_png_of_every_mode(self, tmp_path, mode, colour, expected):
        path = save(tmp_path / "a.png", solid(mode, colour))
        pixels = decode(path, Frame(8, 16))
        assert pixels.shape == (8, 16, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == expected).all()

    def test_half_transparent_is_composited_on_white(self, tmp_path):
        path = save(tmp_path / "a.png", solid("RGBA", (0, 0, 0, 128)))
        assert decode(path, Frame(4, 4))[0, 0].tolist() == pytest.approx([127] * 3, abs=1)

    def test_a_place_before_the_beginning_is_bad_content(self, tmp_path):
        """Pillow seeks to where an icon says its picture is, and the system refuses."""
        content = b"\0\0\1\0\1\0" + bytes([8, 8, 0, 0, 1, 0, 32, 0]) + struct.pack("<Ii", 99, -9)
        (tmp_path / "a.ico").write_bytes(content)
        with pytest.raises(ImageError) as raised:
            decode(str(tmp_path / "a.ico"), Frame(8, 8))
        assert not isinstance(raised.value, ImageUnavailable)

    def test_what_a_reader_stumbles_over_is_said_of_the_file(self, tmp_path):
        (tmp_path / "a.pgm").write_bytes(b"P2 2 2 255\n1 2 x\xff 4\n")
        with pytest.raises(ImageError, match="damaged: its values make no sense"):
            decode(str(tmp_path / "a.pgm"), Frame(8, 8))

    @pytest.mark.parametrize("depth", [8, 12, 16])
    def test_16_bit_grey_of_any_depth_is_seen(self, tmp_path, depth):
        ramp = np.tile(np.linspace(0, 2**depth - 1, 64).astype(np.uint16), (64, 1))
        pixels = decode(save(tmp_path / "a.png", Image.fromarray(ramp)), Frame(64, 64))
        assert pixels[:, 0].max() == 0
        assert pixels[:, -1].min() == 255

    @pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
    def test_a_png_with_damaged_pixels_is_refused(self, tmp_path, crops, place):
        """Asked for EXIF data, Pillow decodes and fails, and takes what it has for sound later."""
        path = tmp_path / "a.png"
        Image.open(crops[0]).save(path)
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 0x55
        path.write_bytes(content)
        for act in (lambda: decode(str(path), Frame(32, 32)), lambda: thumbnail(str(path), 32)):
            with pytest.raises(ImageError, match="data stream"):
                act()
        with pytest.raises(ImageError, match="data stream"), Image.open(path) as image:
            decode_open("<image>", image, Frame(32, 32))

    @pytest.mark.parametrize("missing", [1, 2])
    def test_a_jpeg_without_its_end_marker_is_whole(self, tmp_path, crops, missing):
        content = Path(crops[0]).read_bytes()
        assert content.endswith(b"\xff\xd9")
        (tmp_path / "a.jpg").write_bytes(content[:-missing])
        for side in (32, 96, 512):
            expected = decode(crops[0], Frame(side, side))
            assert np.array_equal(decode(str(tmp_path / "a.jpg"), Frame(side, side)), expected)

    @pytest.mark.parametrize("missing", [3, 5, 40, 900])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_that_is_cut_is_refused(self, tmp_path, crops, missing, progressive):
        path = tmp_path / "a.jpg"
        Image.open(crops[0]).save(path, progressive=progressive)
        path.write_bytes(path.read_bytes()[:-missing])
        for side in (32, 96):
            with pytest.raises(ImageError, match="truncated"):
                decode(str(path), Frame(side, side))

    def test_an_animation_that_fades_in_is_not_blank(self, tmp_path):
        frames = [Image.new("RGB", (32, 32), (level, level, level)) for level in (0, 9, 90)]
        frames.append(solid("RGB", "red", (32, 32)))
        frames[-1].paste("blue", (0, 0, 16, 32))
        pixels = []
        for end in (4, 3):
            path = str(tmp_path / f"{end}.gif")
            frames[0].save(path, save_all=True, append_images=frames[1:end])
            pixels.append(decode(path, Frame(32, 32)))
        assert pixels[0][16, 4, 2] > 200
        assert pixels[0][16, 28, 0] > 200
        assert not pixels[1].any()  # there is nothing in any frame: the first one

    def test_films_and_texts_are_not_images(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x14ftypisom" + bytes(99))
        (tmp_path / "a.xml").write_bytes(b"<?xml version='1.0'?>")
        assert sorted_out(find([str(tmp_path)])) == ([], [])

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_white_drawings_on_nothing_are_seen(self, tmp_path, mode):
        """On white they would all be the same blank picture."""
        decoded = []
        for box in ((8, 8, 24, 56), (40, 8, 56, 56)):
            image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            image.paste((255, 250, 255, 255), box)
            path = save(tmp_path / "a.png", image.convert(mode))
            decoded.append(decode(path, Frame(64, 64)))
            assert decoded[-1][0, 0].tolist() == [0, 0, 0]
            assert decoded[-1][box[1] + 8, box[0] + 8].min() >= 250
        assert np.abs(decoded[0].astype(int) - decoded[1]).mean() > 60

    def test_the_ground_is_the_same_at_any_size(self, tmp_path):
        random = np.random.default_rng(0)
        for number in range(12):
            pixels = np.full((96, 96, 4), 255, np.uint8)
            pixels[..., :3] -= random.integers(0, 2 * 16 + 1, (96, 96, 1), np.uint8)
            pixels[:16, :, 3] = 0
            path = save(tmp_path / f"{number}.png", Image.fromarray(pixels))
            corners = {decode(path, Frame(side, side))[0, 0, 0].item() for side in (32, 64, 200)}
            assert len(corners) == 1

    def test_dark_drawings_on_nothing_are_on_white(self, tmp_path):
        image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
        image.paste((200, 230, 200, 255), (8, 8, 56, 56))
        pixels = decode(save(tmp_path / "a.png", image), Frame(64, 64))
        assert pixels[0, 0].tolist() == [255, 255, 255]

    def test_transparent_palette_entry_is_white(self, tmp_path):
        image = solid("P", 0)
        image.putpalette([255, 0, 0, 0, 255, 0])
        path = save(tmp_path / "a.png", image, transparency=0)
        assert (decode(path, Frame(4, 4)) == 255).all()

    def test_transparent_colour_of_an_rgb_png_is_white(self, tmp_path):
        path = save(tmp_path / "a.png", solid("RGB", (9, 9, 9)), transparency=(9, 9, 9))
        assert (decode(path, Frame(4, 4)) == 255).all()

    @pytest.mark.parametrize(
        ("colours", "depth"), [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (3, 8), (3, 16)]
    )
    def test_transparent_colour_of_any_depth(self, tmp_path, colours, depth):
        """The left half is transparent; the right half has one less, and is not."""
        most = (1 << depth) - 1
        dark, light = most // 2, most // 2 + 1
        pixels = np.full((8, 8 * colours), dark)
        pixels[:, : 4 * colours] = light
        bits = (pixels[..., np.newaxis] >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(8, -1).astype(np.uint8), axis=1)
        raw = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        chunks = {
            b"IHDR": struct.pack(">IIBBBBB", 8, 8, depth, 2 if colours == 3 else 0, 0, 0, 0),
            b"tRNS": struct.pack(">H", light) * colours,
            b"IDAT": raw,
            b"IEND": b"",
        }
        content = b"\x89PNG\r\n\x1a\n"
        for kind, body in chunks.items():
            content += struct.pack(">I", len(body)) + kind + body
            content += struct.pack(">I", zlib.crc32(kind + body))
        (tmp_path / "a.png").write_bytes(content)
        decoded = decode(str(tmp_path / "a.png"), Frame(8, 8))
        assert decoded[4, 1].tolist() == [255] * 3
        assert decoded[4, 6].tolist() == pytest.approx([255 * dark // most] * 3, abs=1)

    def test_cmyk_jpeg(self, tmp_path):
        path = save(tmp_path / "a.jpg", solid("CMYK", (0, 255, 255, 0)))
        red, green, blue = decode(path, Frame(4, 4))[0, 0].tolist()
        assert red > 230
        assert green < 30
        assert blue < 30

    def test_lab_tiff(self, tmp_path):
        path = save(tmp_path / "a.tif", solid("LAB", (128, 128, 128)))
        grey = decode(path, Frame(4, 4))[0, 0]
        assert np.ptp(grey) <= 3
        assert 100 < grey[0] < 140

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_wide_values_are_stretched(self, tmp_path, mode):
        ramp = np.linspace(-500, 70_000, 64).reshape(1, 64).repeat(8, axis=0)
        values = ramp.astype(np.int32 if mode == "I" else np.float32)
        pixels = decode(save(tmp_path / "a.tif", Image.fromarray(values)), Frame(8, 64))
        assert pixels[0, 0, 0] == 0
        assert pixels[0, -1, 0] == 255

    def test_float_image_without_a_finite_value_is_black(self, tmp_path):
        path = save(tmp_path / "a.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
        assert (decode(path, Frame(4, 4)) == 0).all()

    def test_first_frame_of_an_animation(self, tmp_path):
        frames = [solid("RGB", (255, 0, 0)), solid("RGB", (0, 0, 255))]
        path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
        assert decode(path, Frame(4, 4))[0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_applied(self, tmp_path, orientation):
        """All eight ways of storing the same picture decode alike."""
        upright = Image.new("RGB", (40, 20), "white")
        upright.paste("red", (0, 0, 20, 10))
        upright.paste("blue", (20, 10, 40, 20))
        undo = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "a.png", stored, exif=exif)
        with opened(path) as image:
            decoded = image.decode(Frame(20, 40))
        pixels = decoded.values
        assert decoded.size == (40, 20)
        assert pixels[4, 4].tolist() == [255, 0, 0]
        assert pixels[15, 35].tolist() == [0, 0, 255]
        small = thumbnail(path, 20)
        assert small.values.shape == (10, 20, 3)
        assert small.size == dimensions(path) == (40, 20)

    def test_the_middle_is_within_the_image(self):
        """Whatever is rounded."""
        for side in range(1, 2_500):
            for size in ((side, side), (side, side + side // 3), (side + 50, side)):
                left, top, right, bottom = Frame(224, 224, "crop").box(size)
                assert 0 <= left < right <= size[0]
                assert 0 <= top < bottom <= size[1]

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("size", [(48, 32), (32, 48), (960, 641), (33, 400), (1, 500)])
    def test_cropped_to_the_middle(self, tmp_path, size, suffix, orientation):
        """As Pillow does it, whatever the orientation, and where a JPEG is decoded smaller."""
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        picture.paste("red", (0, 0, size[0] // 2, size[1] // 3))
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"a{suffix}", picture, exif=exif)
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        expected = ImageOps.fit(upright, (40, 20), Image.Resampling.BILINEAR)
        pixels = decode(path, Frame(20, 40, "crop"))
        assert pixels.shape == (20, 40, 3)
        assert np.abs(pixels.astype(int) - np.asarray(expected).astype(int)).mean() < 3

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_in_every_format(self, tmp_path, suffix, orientation):
        """What Pillow's own transposition gives, also for TIFFs, which Pillow turns by itself."""
        picture = Image.new("RGB", (48, 32), "white")
        picture.paste("red", (0, 0, 24, 16))
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"a{suffix}", picture, exif=exif)
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        with opened(path) as image:
            decoded = image.decode(Frame(upright.height, upright.width))
        assert decoded.size == upright.size
        assert np.abs(decoded.values.astype(int) - np.asarray(upright).astype(int)).mean() < 2

    def test_damaged_exif_counts_as_upright(self, tmp_path):
        path = save(
            tmp_path / "a.jpg", solid("RGB", "red"), exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff"
        )
        assert decode(path, Frame(4, 4)).shape == (4, 4, 3)

    def test_resize_is_antialiased(self, tmp_path):
        stripes = np.zeros((256, 256), np.uint8)
        stripes[:, ::2] = 255
        pixels = decode(save(tmp_path / "a.png", Image.fromarray(stripes)), Frame(16, 16))
        assert (abs(pixels.astype(int) - 127) <= 8).all()

    @pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000)])
    def test_extreme_shapes(self, tmp_path, size):
        path = save(tmp_path / "a.png", solid("RGB", (1, 2, 3), size))
        assert (decode(path, Frame(32, 32)) == (1, 2, 3)).all()
        small = thumbnail(path, 64)
        assert max(small.values.shape[:2]) <= 64
        assert small.size == dimensions(path) == size

    def test_large_jpeg_is_decoded_at_a_smaller_scale(self, tmp_path, monkeypatch):
        path = save(tmp_path / "a.jpg", solid("RGB", "red", (4_000, 3_000)))
        loaded = []
        original = Image.Image.resize

        def spy(self, *arguments, **options):
            loaded.append(self.size)
            return original(self, *arguments, **options)

        monkeypatch.setattr(Image.Image, "resize", spy)
        decode(path, Frame(256, 256))
        assert loaded[0] == (500, 375)

    def test_large_images_are_in_memory_one_at_a_time(self, tmp_path):
        Image.new("RGB", (6_000, 6_000)).save(tmp_path / "a.png")  # 144 MB
        with open(tmp_path / "a.png", "rb") as file:
            (tmp_path / "cut.png").write_bytes(file.read()[:-200])
        code = (
            "import os, re, sys\n"
            "from imgsim.parallel import in_threads; from imgsim.images.decode import decode\n"
            "from imgsim.images.frame import Frame\n"
            "os.cpu_count = lambda: 8\n"
            "found = list(in_threads(lambda path: decode(path, Frame(8, 8)), 6 * sys.argv[1:]))\n"
            "status = open('/proc/self/status').read()\n"
            "print(len(found), int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]) >> 10)"
        )
        command = [sys.executable, "-c", code, tmp_path / "a.png", tmp_path / "cut.png"]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        count, megabytes = map(int, run.stdout.split())
        assert count == 12
        assert megabytes < 400

    def test_a_decoder_that_closes_the_file(self, tmp_path):
        path = tmp_path / "a.ftu"
        header = struct.pack("<4siiiiiiii", b"FTEX", 0, 2, 2, 1, 1, 1, 32, 12)
        path.write_bytes(header + bytes((10, 200, 30)) * 4)
        with opened(str(path)) as image:
            assert image.sha256 == hashlib.sha256(path.read_bytes()).digest()
            assert image.decode(Frame(1, 1)).values.tolist() == [[[10, 200, 30]]]


class TestRefusals:
    @pytest.mark.parametrize("text", ["not a picture", "width = 640\n"])
    def test_text(self, tmp_path, text):
        path = tmp_path / "a.jpg"
        path.write_text(text)
        with pytest.raises(NotAnImage):
            decode(str(path), Frame(4, 4))
        assert sorted_out(find([str(path)]))[0] == []

    def test_truncated(self, tmp_path, crops):
        with open(crops[0], "rb") as file:
            content = file.read()
        path = tmp_path / "a.jpg"
        path.write_bytes(content[: len(content) // 2])
        assert sorted_out(find([str(path)]))[0] == [str(path)]
        with pytest.raises(ImageError, match="truncated") as caught:
            decode(str(path), Frame(4, 4))
        assert caught.value.path == str(path)

    def test_bomb(self, tmp_path):
        side = int(MAX_PIXELS**0.5) + 1
        path = tmp_path / "a.png"
        header = Image.new("1", (1, 1))
        header.save(path)
        content = bytearray(path.read_bytes())
        content[16:24] = side.to_bytes(4, "big") * 2
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ImageError):
                decode(str(path), Frame(4, 4))

    def test_eps_is_never_handed_to_ghostscript(self, tmp_path):
        path = tmp_path / "a.eps"
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
        with pytest.raises(NotAnImage):
            decode(str(path), Frame(4, 4))

    @pytest.mark.parametrize("name", ["missing.jpg", "nul\0.jpg", "x" * 300])
    def test_no_such_file(self, tmp_path, name):
        with pytest.raises(ImageUnavailable):
            decode(f"{tmp_path}/{name}", Frame(4, 4))

    def test_directory_and_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        for path in (tmp_path, tmp_path / "pipe.jpg"):
            with pytest.raises(ImageUnavailable, match="not a regular file"):
                decode(str(path), Frame(4, 4))

    def test_the_reason_is_one_line(self, tmp_path):
        path = tmp_path / "a.tif"
        path.write_bytes(b"II*\0\x08\0\0\0\xff\xff")
        with pytest.raises(ImageError) as caught:
            decode(str(path), Frame(4, 4))
        assert "\n" not in caught.value.reason
        assert caught.value.reason


class TestFind:
    def test_names_of_formats_that_are_not_read_claim_nothing(self, tmp_path):
        for name in ("a.pdf", "b.eps", "c.webp"):
            (tmp_path / name).touch()
        claims = [item.claimed for item in find([str(tmp_path)]) if isinstance(item, ImageFile)]
        assert claims == [False, False, True]

    def test_odd_roots(self, tmp_path):
        (tmp_path / "a.jpg").touch()
        assert found_paths(["", f"/{tmp_path}/a.jpg", f"{tmp_path}/a.jpg"]) == [f"{tmp_path}/a.jpg"]
        (refused,) = find(["a\0b"])
        assert isinstance(refused, ImageUnavailable)

    def test_sorted_recursive_and_hidden_left_out(self, tmp_path):
        for name in ("b/2.jpg", "b/1.jpg", "a.png", ".hidden.jpg", ".git/x.jpg", "c"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        names = [os.path.relpath(path, tmp_path) for path in found_paths([tmp_path])]
        assert names == ["a.png", "b/1.jpg", "b/2.jpg", "c"]
        assert found_paths([tmp_path / ".hidden.jpg"]) == [str(tmp_path / ".hidden.jpg")]

    def test_link_loops_end_and_links_are_followed(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1.jpg").touch()
        (tmp_path / "d" / "loop").symlink_to(tmp_path)
        (tmp_path / "link.jpg").symlink_to(tmp_path / "d" / "1.jpg")
        assert found_paths([tmp_path]) == [f"{tmp_path}/d/1.jpg"]  # under its own name

    def test_what_links_lead_to_elsewhere_comes_once_and_last(self, tmp_path):
        for name in ("in/z.jpg", "out/a.jpg", "out/.hidden.jpg", "out/deep/b.jpg", "one/c.jpg"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        for name, target in {
            "in/1.jpg": "../one/c.jpg",
            "in/2.jpg": "1.jpg",
            "in/3.jpg": "z.jpg",
            "in/4.jpg": "../out/.hidden.jpg",
            "in/album": "../out",
            "in/again": "../out",
        }.items():
            (tmp_path / name).symlink_to(target)
        notes = Notes()
        found = [f.path for f in find([str(tmp_path / "in")], notes=notes)]
        inside = [path.removeprefix(f"{tmp_path}/in/") for path in found]
        assert inside == ["z.jpg", "1.jpg", "4.jpg", "again/a.jpg", "again/deep/b.jpg"]
        assert notes.drives == {f"{tmp_path}/in/again"}
        both = [str(tmp_path / name) for name in ("in", "out")]
        assert f"{tmp_path}/out/a.jpg" in [f.path for f in find(both)]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0, 1, 1)])
    def test_overlapping_roots_yield_a_file_once(self, tmp_path, order):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1.jpg").touch()
        (tmp_path / "2.jpg").touch()
        roots = [tmp_path, tmp_path / "d" / "1.jpg"]
        paths = found_paths([roots[i] for i in order])
        assert sorted(paths) == [f"{tmp_path}/2.jpg", f"{tmp_path}/d/1.jpg"]

    def test_the_collection_is_not_entered(self, tmp_path):
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "1.jpg").touch()
        assert found_paths([tmp_path], collection=str(tmp_path / "c")) == []

    def test_claimed_by_name_or_by_the_user(self, tmp_path):
        for name in ("a.jpg", "b.txt"):
            (tmp_path / name).touch()
        claimed = {os.path.basename(f.path): f.claimed for f in find([str(tmp_path)])}
        assert claimed == {"a.jpg": True, "b.txt": False}
        (named,) = find([str(tmp_path / "b.txt")])
        assert named.claimed

    def test_what_cannot_be_looked_at_is_reported(self, tmp_path):
        (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
        (broken,) = find([str(tmp_path)])
        assert isinstance(broken, ImageUnavailable)
        (missing,) = find([str(tmp_path / "nowhere")])
        assert isinstance(missing, ImageUnavailable)

    def test_names_that_are_not_utf8_or_hold_newlines(self, tmp_path, crops):
        for name in (b"bad\xff.jpg", b"new\nline.jpg"):
            shutil.copy(crops[0], os.path.join(os.fsencode(tmp_path), name))
        paths = found_paths([tmp_path])
        assert [os.fsencode(os.path.basename(p)) for p in paths] == [
            b"bad\xff.jpg",
            b"new\nline.jpg",
        ]
        for path in paths:
            assert decode(path, Frame(8, 8)).shape == (8, 8, 3)

    def test_stamp_is_the_files(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"12345")
        os.utime(tmp_path / "a.jpg", ns=(0, 1_234_567_890_123_456_789))
        (file,) = find([str(tmp_path)])
        assert (file.size, file.mtime_ns) == (5, 1_234_567_890_123_456_789)
        assert stat.S_ISREG(os.stat(file.path).st_mode)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_without_permission(self, crops):
        """A real process of a user who may not look into one folder nor read one file."""
        with TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            os.mkdir(f"{folder}/closed", 0)
            shutil.copy(crops[0], f"{folder}/open.jpg")
            shutil.copy(crops[0], f"{folder}/secret.jpg")
            os.chmod(f"{folder}/secret.jpg", 0)
            child = os.fork()
            if not child:
                os.setresuid(65534, 65534, 65534)
                os._exit(42 if what_a_stranger_sees(folder) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def what_a_stranger_sees(folder):
    closed, image, secret = find([folder])
    try:
        decode(secret.path, Frame(8, 8))
    except ImageUnavailable as error:
        refused = error.reason == "Permission denied"
    return (
        refused
        and isinstance(closed, ImageUnavailable)
        and closed.reason == "Permission denied"
        and decode(image.path, Frame(8, 8)).shape == (8, 8, 3)
    )
