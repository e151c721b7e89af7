"""Readers of formats that Pillow lacks, a module for each extra; nothing else loads their packages.

Each has ``read``, which returns the image in a binary file, upright.
"""
