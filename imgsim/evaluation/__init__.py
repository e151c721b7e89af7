"""How well an encoder retrieves labelled images, and what simple descriptors reach."""
