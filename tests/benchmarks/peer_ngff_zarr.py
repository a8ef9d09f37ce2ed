"""A volume to OME-Zarr 0.5 with a pyramid by ngff-zarr, in its own environment (peers.ngff_zarr_python).

``PYTHON tests/benchmarks/peer_ngff_zarr.py SRC OUT METHOD CHUNK,.. CHUNKS_PER_SHARD,..``

Its command line copies an OME-Zarr level by level and makes no new ones, hence its library.
"""

from __future__ import annotations

import sys

import ngff_zarr
from ngff_zarr.cli_input_to_ngff_image import cli_input_to_ngff_image
from ngff_zarr.codecs import codec_from_name
from ngff_zarr.detect_cli_io_backend import ConversionBackend


def main(source: str, out: str, method: str, chunks: str, per_shard: str) -> None:
    dims = ("z", "y", "x")
    if source.endswith(".zarr"):
        image = ngff_zarr.from_ome_zarr(source).images[0]
    else:
        image = cli_input_to_ngff_image(ConversionBackend.TIFFFILE, [source])
    multiscales = ngff_zarr.to_multiscales(
        image,
        method=ngff_zarr.Methods(method),
        chunks=dict(zip(dims, map(int, chunks.split(",")), strict=True)),
    )
    ngff_zarr.to_ome_zarr(
        out,
        multiscales,
        version="0.5",
        chunks_per_shard=dict(zip(dims, map(int, per_shard.split(",")), strict=True)),
        compressor=codec_from_name("blosc:zstd", None),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
