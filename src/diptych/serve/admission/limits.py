"""Limits of a request and of the load on the service."""

from __future__ import annotations

from dataclasses import dataclass, fields

from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Request limits; above them: 413 (bytes, pixels, characters), 422 (counts), 408 or 503 (time), 429 (too much at once).

    body_bytes       of a request
    image_pixels     of a picture, read from its header before anything is decoded; JPEGs with very many scans are too large as well
    cloud_points     of a point cloud
    inputs           texts or pictures in one request
    names            labels, objects or relations in one request
    text_characters  of one text
    tokens           of a written answer
    k                results of one search
    depth            items of a ranking that a search with `distinct` looks at, at most
    queue            inputs that wait for the model; more than that is answered with 429
    queue_bytes      memory of all bodies and decoded pictures (by the size that their headers declare); more is answered with 429
    batch            inputs that the model gets at once, at most
    requests         that are open at once
    rate             requests a second and client, on average; 0 sets no limit
    burst            requests that a client may send at once before `rate` holds
    connections      that are open at once; more are answered with 503, unless one that only waits can make room
    client_connections  the same, of one client (address; of IPv6, its first 64 bits)
    header_seconds   until the head of a request has arrived, from the connection or from its first byte
    idle_seconds     that a connection stays open between requests
    request_seconds  from the first byte of a request until the client has taken the last byte of its answer
    body_seconds     until a body has arrived
    decode_seconds   of one picture
    seconds          from then until the answer, for every route
    drain_seconds    for requests that are under way when the service is asked to stop
    """

    body_bytes: int = 16 << 20
    image_pixels: int = 25_000_000
    cloud_points: int = 1_000_000
    inputs: int = 256
    names: int = 1000
    text_characters: int = 8192
    tokens: int = 512
    k: int = 200
    depth: int = 10_000
    queue: int = 512
    queue_bytes: int = 512 << 20
    batch: int = 64
    requests: int = 512
    rate: float = 0.0
    burst: int = 40
    connections: int = 512
    client_connections: int = 256
    header_seconds: float = 10.0
    idle_seconds: float = 20.0
    request_seconds: float = 120.0
    body_seconds: float = 20.0
    decode_seconds: float = 10.0
    seconds: float = 60.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name != "rate"):
                raise ConfigError(f"Limits.{field.name} is {value} (expected more than 0)")
