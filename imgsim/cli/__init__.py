"""The command line: parse, call, print. ``main`` holds the app; a file has the commands of one kind."""
