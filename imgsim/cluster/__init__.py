"""A collection that many machines work on, by Ray."""
