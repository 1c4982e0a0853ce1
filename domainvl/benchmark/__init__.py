"""Grids of adapters, shots and seeds: what `python -m domainvl benchmark` runs. Import what you need from its modules.

grid    which recipe a word of --adapters stands for; nothing heavy is imported
plan    from recipes to cells: resolved configs under their hash
cells   one JSON per finished cell, written whole or not at all
parts   the images that one cell trains on and is tested on
bench   runs a cell, keeping backbones, tables and pixels for the next one
pool    processes that run cells, may die, and die with their parent
table   results.csv and what is printed
plot    curves.png and curves.svg
"""
