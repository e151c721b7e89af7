"""The SQLite file that says what exists."""
