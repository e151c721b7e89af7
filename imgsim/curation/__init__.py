"""What people do with neighbours: find duplicates and outliers, choose, look at all of it."""
