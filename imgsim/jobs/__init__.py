"""What changes a collection or runs over all of it: ingest, reencode, repair, compact, forget."""
