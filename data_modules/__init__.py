"""Data modules of the four domains; so far chest X-rays."""

from data_modules.cxr import ChestXrays

__all__ = ["ChestXrays"]
