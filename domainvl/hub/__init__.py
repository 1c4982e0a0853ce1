"""Adapters that travel: saving, reading and loading adapter folders."""

from domainvl.hub.card import FORMAT_VERSION, AdapterCard, make_adapter, read_adapter_card
from domainvl.hub.folder import SavedAdapter, load_adapter, read_adapter, save_adapter
from domainvl.hub.remote import backbone_of, located

__all__ = [
    "FORMAT_VERSION",
    "AdapterCard",
    "SavedAdapter",
    "backbone_of",
    "load_adapter",
    "located",
    "make_adapter",
    "read_adapter",
    "read_adapter_card",
    "save_adapter",
]
