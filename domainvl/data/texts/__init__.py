"""Texts that come with images: reports and their sections, sentences, spans, and which of them are read."""
