"""Volumes: read, turned, cut, resampled, stored once, given to a model."""
