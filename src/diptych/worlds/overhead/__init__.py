"""Rendered views from above: tiles with captions in ten languages, and large scenes as GeoTIFF."""
