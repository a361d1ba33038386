"""Options of a download of pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.data.web.polite_http import FetchPolicy


@dataclass(frozen=True)
class Download:
    """size           pixels of a side, see `resize` (published 256)
    resize         border: whole, on a white square; keep_ratio: `size` is the short side; keep_ratio_largest: the long one; center_crop;
                   no: the size it has
    encode         format of the stored pictures
    quality        of JPEG and WebP (published 95)
    only_if_bigger leave images as they are that are no larger: they get no border and are not cropped either
    filters        opencv: means over areas where images shrink, Lanczos' with eight pixels where they grow, as published; pil: Lanczos'
                   with six a side where they shrink, bicubic where they grow, two to three times faster
    min_side       smaller images are refused; 0 is off
    max_area       images of more pixels are refused; 0 is off
    max_aspect     long side / short side must not be above; 0 is off
    shard_links    links per shard
    threads        asked at once (published 256 for a big machine)
    processes      that decode and size pictures beside this one; 0 does it in the threads that ask
    engine         local: pictures are decoded and sized on this machine; ray: by tasks of a Ray cluster. Links are asked by this process
                   alone, so that the limits of each host hold
    blur           column of the links with boxes to blur, such as faces: a list of [left, top, right, bottom] as shares of the sides
    memory         MiB that pictures may take up at once while they are decoded and sized, in each process
    retries        of one link, on the spot
    opted_out      a file of addresses that are not asked, one a line, to which those are added that opt out; None: opted_out.txt in the
                   folder of the shards
    """

    size: int = 256
    resize: Literal["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"] = "border"
    encode: Literal["jpg", "webp", "png"] = "jpg"
    quality: int = 95
    only_if_bigger: bool = False
    filters: Literal["opencv", "pil"] = "opencv"
    min_side: int = 0
    max_area: int = 0
    max_aspect: float = 0.0
    shard_links: int = 10_000
    threads: int = 64
    processes: int = 0
    engine: Literal["local", "ray"] = "local"
    blur: str = ""
    memory: int = 1024
    retries: int = 0
    opted_out: Path | None = None
    policy: FetchPolicy = field(default_factory=FetchPolicy)

    def __post_init__(self) -> None:
        if min(self.size, self.shard_links, self.threads, self.memory) < 1 or min(self.processes, self.retries) < 0:
            raise ConfigError("size, shard_links, threads and memory are at least 1, processes and retries 0 or more")
        if self.engine not in ("local", "ray"):
            raise ConfigError(f"engine is {self.engine!r} (expected local | ray)")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality} (expected quality 1..100)")
        if self.shard_links > 10_000:
            raise ConfigError(f"shard_links is {self.shard_links:,} (expected at most 10,000: keys have four digits for it)")
