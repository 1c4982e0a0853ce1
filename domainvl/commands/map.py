"""`map RECIPE --scene FILE`: a georeferenced map of what the model sees in a scene; can be killed and goes on."""

from __future__ import annotations

from pathlib import Path

from domainvl.console.arguments import ADAPTER, COMMON, Option, help_text, read_recipes, split
from domainvl.errors import CommandError, near

_OPTIONS = {
    "--scene": Option("FILE", "a GeoTIFF, COG or VRT with a coordinate system"),
    "--out": Option("DIR", "where the map goes; the same call again goes on with what is there"),
    **ADAPTER,
    "--cell": Option("N", "pixels of the scene along the side of a cell of the map (default: a quarter of the stride)"),
    "--threshold": Option("P", "least probability of a region (default: 0.5)"),
    "--allow-import": COMMON["--allow-import"],
}
_SUMMARY = """\
Score every tile of a scene and write, in DIR: classes.tif and scores.tif (cloud-optimised GeoTIFFs in the scene's own
coordinate system), regions.geojson, quicklook.png. Tiles overlap by --data.tiling.overlap and are blended."""
_SEE = "python -m domainvl map --help"


def main(words: list[str]) -> int:
    """Run `map`."""
    arguments = split("map", words, _OPTIONS)
    if arguments.help == "":
        print(help_text("map", _SUMMARY, _OPTIONS))
        return 0
    recipe = read_recipes("map", arguments)
    if arguments.help is None and not arguments.print_config:
        for name in ("--scene", "--out"):
            if arguments.option(name) is None:
                raise CommandError(f"map needs {name}", see=_SEE)
        scene = Path(str(arguments.option("--scene")))
        if not scene.is_file():
            beside = [place.name for place in scene.parent.iterdir()] if scene.parent.is_dir() else []
            meant = [str(scene.parent / name) for name in near(scene.name, beside)]
            raise CommandError(f"--scene: there is no file {scene}", meant=meant, see=_SEE)
    from domainvl.commands.mapping import make_map

    return make_map(arguments, recipe)
