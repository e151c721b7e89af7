"""Run the command line with ``python -m imgsim``."""

from imgsim.cli import main

main()
