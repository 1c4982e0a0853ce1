"""Satellite and aerial scenes: GeoTIFF, COG and VRT files, cut into tiles by a plan that is made once."""
