"""Points of XYZ, OFF and OBJ files, read by trimesh (extra `points`). Surfaces are sampled; nothing beside the file is opened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.media import MediaItem, MediaLimit
from diptych.data.media.encoded import refuse_elements

SUFFIXES = ("xyz", "off", "obj")


def mesh_suffix(name: str) -> str:
    """The ending of a file that `read_mesh` reads, or ""."""
    ending = Path(name).suffix.lstrip(".").lower()
    return ending if ending in SUFFIXES else ""


def read_mesh(data: bytes, suffix: str, item: MediaItem, limit: MediaLimit, *, points: int) -> npt.NDArray[np.float64]:
    """[P, 3]: `points` of a surface, even by area and the same each time; all points of an .xyz file.

    Raises DecodeError for a file that is broken or has no faces, MissingExtra without trimesh.
    """
    try:
        import trimesh
    except ImportError as error:
        raise MissingExtra("trimesh", "points", needed_for=f"{item.name}: reading .{suffix} files") from error
    try:
        read: Any = trimesh.load(io.BytesIO(data), file_type=suffix, process=False, resolver=None, force=None)
        scene = isinstance(read, trimesh.Scene)
        content: Any = read.to_mesh() if scene else read
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, NotImplementedError, UnicodeDecodeError) as error:
        raise _wrong(
            f"not read as .{suffix}: {str(error).splitlines()[0] if str(error) else type(error).__name__}", item
        ) from error
    vertex_P3 = np.asarray(content.vertices, np.float64)
    refuse_elements(len(vertex_P3), "points", item, limit)
    if suffix == "xyz":
        return vertex_P3
    if not len(getattr(content, "faces", ())):
        raise _wrong("a mesh without faces", item, "a surface; points alone as .xyz, .ply or .npy")
    if not float(content.area) > 0:
        raise _wrong("a mesh whose area is 0 or not finite", item, "a surface")
    sampled_P3, _ = trimesh.sample.sample_surface(content, points, seed=0)
    return np.asarray(sampled_P3, np.float64)


def _wrong(problem: str, item: MediaItem, expected: str | None = None) -> DecodeError:
    return DecodeError(problem, file=item.name, medium=item.medium, expected=expected)
