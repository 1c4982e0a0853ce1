"""Adapters that travel: saving, reading and loading adapter folders."""

from domainvl.hub.card import FORMAT_VERSION, AdapterCard, make_adapter, read_adapter_card
from domainvl.hub.folder import SavedAdapter, load_adapter, read_adapter, save_adapter

__all__ = [
    "FORMAT_VERSION",
    "AdapterCard",
    "SavedAdapter",
    "load_adapter",
    "make_adapter",
    "read_adapter",
    "read_adapter_card",
    "save_adapter",
]
