"""Long passes over images or texts: streamed in, kept row by row, going on where they were killed."""
