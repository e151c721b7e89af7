"""Exact nearest neighbours over segment files; knows nothing of paths or tables."""
