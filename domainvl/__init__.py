"""Adapt pretrained vision-language models to medical and remote-sensing images."""

__version__ = "0.1.0"
