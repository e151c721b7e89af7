"""Run the command line with ``python -m imgsim``."""

from imgsim.cli.main import main

main()
