"""How the built-in tiny vision-language model is made; started by ``examples/pretrain_tiny.py``."""
