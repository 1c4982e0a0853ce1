"""Whole slides: what is wrong with one before it is read, bags of features from files, embedding, and heat-maps."""
