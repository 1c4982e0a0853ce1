"""Stains of histology: measured, normalised, and changed as other laboratories would."""
