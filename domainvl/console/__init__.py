"""What verbs share: from words and recipes to objects that run, and what a person sees meanwhile."""
