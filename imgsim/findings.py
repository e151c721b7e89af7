"""What the curation of a collection finds."""
