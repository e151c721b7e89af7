"""The command line: parse, call, print. A file has the commands of one kind."""
