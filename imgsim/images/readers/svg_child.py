"""A program: draw the SVG on stdin as a PNG on stdout, with its longer side of so many pixels."""

import resource
import sys

import resvg_py

_SECONDS = 5
_BYTES = 2 << 30
_UTF_16 = b"\xff\xfe", b"\xfe\xff"


def main() -> None:
    """Give up what drawing does not need, and draw."""
    content = sys.stdin.buffer.read()
    drawing = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8")
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 1))  # a signal says which it was
    for what, most in (
        (resource.RLIMIT_AS, _BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),  # stdin, stdout and stderr: no file can be opened
    ):
        resource.setrlimit(what, (most, most))
    side = int(sys.argv[1])
    image = resvg_py.svg_to_bytes(drawing, width=side, height=side, skip_system_fonts=True, dpi=96)
    sys.stdout.buffer.write(bytes(image))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
