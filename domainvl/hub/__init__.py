"""Adapters that travel: saving, reading and loading adapter folders."""

from domainvl.hub.card import FORMAT_VERSION, AdapterCard, make_adapter, read_adapter_card
from domainvl.hub.folder import SavedAdapter, copy_adapter, load_adapter, read_adapter, save_adapter
from domainvl.hub.merge import write_merged
from domainvl.hub.rebuild import backbone_of, described, preset_of
from domainvl.hub.remote import base_licence, located, push

__all__ = [
    "FORMAT_VERSION",
    "AdapterCard",
    "SavedAdapter",
    "backbone_of",
    "base_licence",
    "copy_adapter",
    "described",
    "load_adapter",
    "located",
    "make_adapter",
    "preset_of",
    "push",
    "read_adapter",
    "read_adapter_card",
    "save_adapter",
    "write_merged",
]
