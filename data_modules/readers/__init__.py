"""How data sets lie on disk, and how their files are read."""
