"""Stage 1: probe a video file. One VIDEO row in, one PROBED row out; knows nothing of windows."""

import pyarrow as pa

from pipeline.captioning.stages.boundary import for_each_row
from pipeline.common.rows import PROBED, Row
from pipeline.common.storage import local_copy
from sparrow_core.config import DecodeConfig
from sparrow_core.media.decode import FrameDecoder


class ProbeVideos:
    """Callable from VIDEO rows to PROBED rows; holds one decoding child process for the life of its worker."""

    def __init__(self, config: DecodeConfig) -> None:
        self._decoder = FrameDecoder(config)

    def __call__(self, videos: pa.Table) -> pa.Table:
        return for_each_row(videos, self._probe, PROBED)

    def _probe(self, row: Row) -> list[Row]:
        with local_copy(row["source_uri"]) as path:
            info = self._decoder.probe(path)
        return [
            row
            | {
                "duration_s": info.duration_s,
                "width": info.width,
                "height": info.height,
                "src_fps": info.fps,
                "codec": info.codec,
            }
        ]
