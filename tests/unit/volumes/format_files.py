"""Files of every format, made by other programs' libraries: for the contract and the fuzz tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import h5py
import hdf5plugin
import imagecodecs
import mrcfile
import nibabel
import nrrd
import numpy as np
import tensorstore as ts
import tifffile
import zarr


@dataclass(frozen=True)
class Given:
    """What is written: voxels (z, y, x), voxel size and offset (z, y, x) in nm, chunks."""

    pixels: np.ndarray
    scale: tuple[float, float, float] = (40.0, 4.0, 8.0)
    offset: tuple[float, float, float] = (80.0, -12.0, 16.0)
    chunks: tuple[int, int, int] = (4, 8, 8)


@dataclass(frozen=True)
class Format:
    """A format: how a file of it is made, and what it can hold."""

    write: Callable[[Path, Given], str]  # into an empty folder; returns what is opened
    dtypes: str = "u1 i1 u2 i2 u4 i4 u8 i8 f4 f8"
    keeps: str = "scale offset"
    thinnest: int = 1  # along y and x, where the writer fails below


def zarr_ome(version: int) -> Callable[[Path, Given], str]:
    def write(folder: Path, given: Given) -> str:
        root = folder / "a.ome.zarr"
        group = zarr.create_group(str(root), zarr_format=version)
        chunks = tuple(min(c, n) for c, n in zip(given.chunks, given.pixels.shape, strict=True))
        shards = tuple(2 * c for c in chunks) if version == 3 else None
        group.create_array(
            "0", shape=given.pixels.shape, dtype=given.pixels.dtype, chunks=chunks, shards=shards
        )[...] = given.pixels
        steps = [
            {"type": "scale", "scale": given.scale},
            {"type": "translation", "translation": given.offset},
        ]
        axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
        scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
        group.attrs.update(
            {"ome": {"version": "0.5", "multiscales": scales}}
            if version == 3
            else {"multiscales": [{**scales[0], "version": "0.4"}]}
        )
        return str(root)

    return write


def ome_tiff(**options: object) -> Callable[[Path, Given], str]:
    def write(folder: Path, given: Given) -> str:
        places = zip("ZYX", given.scale, given.offset, strict=True)
        metadata: dict[str, object] = {"axes": "ZYX"}
        plane: dict[str, object] = {}
        for axis, size, place in places:
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "nm"}
            plane |= {f"Position{axis}": [place], f"Position{axis}Unit": ["nm"]}
        metadata["Plane"] = {k: v * given.pixels.shape[0] for k, v in plane.items()}  # type: ignore[operator]
        path = folder / "a.ome.tif"
        tifffile.imwrite(path, given.pixels, photometric="minisblack", metadata=metadata, **options)
        return str(path)

    return write


def ome_tiff_many(folder: Path, given: Given) -> str:
    """One file a section, their OME-XML in each."""
    z, y, x = given.pixels.shape
    names = [f"s{k}.ome.tif" for k in range(z)]
    uuids = [f"urn:uuid:00000000-0000-0000-0000-{k:012d}" for k in range(z)]
    data = "".join(
        f'<TiffData IFD="0" FirstZ="{k}" FirstC="0" FirstT="0" PlaneCount="1">'
        f'<UUID FileName="{escape(n)}">{u}</UUID></TiffData>'
        for k, (n, u) in enumerate(zip(names, uuids, strict=True))
    )
    sizes = " ".join(
        f'PhysicalSize{a}="{s}" PhysicalSize{a}Unit="nm"' for a, s in zip("ZYX", given.scale, strict=True)
    )
    kinds = {"u1": "uint8", "i1": "int8", "u2": "uint16", "i2": "int16", "u4": "uint32", "i4": "int32"}
    kind = kinds.get(given.pixels.dtype.str[1:], "float" if given.pixels.dtype.itemsize == 4 else "double")
    for k, (name, uuid) in enumerate(zip(names, uuids, strict=True)):
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{kind}" '
            f'SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="1" SizeT="1" {sizes}>'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            folder / name, given.pixels[k], photometric="minisblack", description=xml, metadata=None
        )
    return str(folder / names[0])


def imagej(folder: Path, given: Given) -> str:
    z, y, x = given.scale
    tifffile.imwrite(
        folder / "a.tif", given.pixels, imagej=True, resolution=(1 / x, 1 / y),
        metadata={"spacing": z, "unit": "nm", "axes": "ZYX"},
    )  # fmt: skip
    return str(folder / "a.tif")


def sections(ending: str) -> Callable[[Path, Given], str]:
    def write(folder: Path, given: Given) -> str:
        for k, section in enumerate(given.pixels):
            path = folder / f"section{k + 1}.{ending}"  # 10 comes after 9
            if ending == "tif":
                tifffile.imwrite(path, section, photometric="minisblack", compression="zlib")
            else:
                encode = {"png": imagecodecs.png_encode, "jpg": imagecodecs.jpeg_encode}[ending]
                path.write_bytes(encode(np.ascontiguousarray(section)))
        return str(folder)

    return write


def hdf5(folder: Path, given: Given) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        chunks = tuple(min(c, n) for c, n in zip(given.chunks, given.pixels.shape, strict=True))
        data = file.create_dataset("volumes/raw", data=given.pixels, chunks=chunks, compression="gzip")
        data.attrs["resolution"], data.attrs["offset"] = given.scale, given.offset
    return str(folder / "a.h5")


def bigdataviewer(folder: Path, given: Given) -> str:
    pixels = given.pixels
    with h5py.File(folder / "a.h5", "w") as file:
        file["t00000/s00/0/cells"] = pixels.view("i2")
        file["s00/resolutions"], file["s00/subdivisions"] = [[1.0, 1.0, 1.0]], [[8, 8, 4]]
    (z, y, x), (c, b, a) = given.scale, given.offset
    (folder / "a.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?><SpimData version="0.2"><SequenceDescription>
        <ImageLoader format="bdv.hdf5"><hdf5 type="relative">a.h5</hdf5></ImageLoader><ViewSetups><ViewSetup>
        <id>0</id><name>one</name><voxelSize><unit>nm</unit><size>{x} {y} {z}</size></voxelSize></ViewSetup>
        </ViewSetups></SequenceDescription><ViewRegistrations><ViewRegistration timepoint="0" setup="0">
        <ViewTransform type="affine"><affine>1 0 0 {a} 0 1 0 {b} 0 0 1 {c}</affine></ViewTransform>
        <ViewTransform type="affine"><affine>{x} 0 0 0 0 {y} 0 0 0 0 {z} 0</affine></ViewTransform>
        </ViewRegistration></ViewRegistrations></SpimData>"""
    )
    return str(folder / "a.xml")


def letters(text: object) -> np.ndarray:
    """As Imaris stores attributes: one character an element."""
    return np.array(list(str(text)), "S1")


def imaris(folder: Path, given: Given) -> str:
    pixels = given.pixels
    with h5py.File(folder / "a.ims", "w") as file:
        image = file.create_group("DataSetInfo/Image")
        image.attrs["Unit"] = letters("nm")
        for i, axis in enumerate("XYZ"):
            size, scale, offset = (v[2 - i] for v in (pixels.shape, given.scale, given.offset))
            image.attrs[axis] = letters(size)
            image.attrs[f"ExtMin{i}"] = letters(offset - scale / 2)
            image.attrs[f"ExtMax{i}"] = letters(offset - scale / 2 + scale * size)
        file.create_group("DataSetInfo/Channel 0").attrs["Name"] = letters("one")
        imaris_channel(file, "ResolutionLevel 0/TimePoint 0/Channel 0", pixels, given.chunks)
    return str(folder / "a.ims")


def imaris_channel(file: h5py.File, place: str, pixels: np.ndarray, chunks: tuple[int, int, int]) -> None:
    """Filled up to whole chunks, LZ4, as Imaris 10 writes."""
    channel = file.create_group(f"DataSet/{place}")
    for axis, size in zip("ZYX", pixels.shape, strict=True):
        channel.attrs[f"ImageSize{axis}"] = letters(size)
    whole = np.pad(pixels, [(0, -n % c) for n, c in zip(pixels.shape, chunks, strict=True)])
    channel.create_dataset("Data", data=whole, chunks=chunks, **hdf5plugin.LZ4())


def mrc(folder: Path, given: Given) -> str:
    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(given.pixels)
        file.set_volume()
        z, y, x = (10 * s for s in given.scale)  # Ångström
        file.voxel_size = (x, y, z)
        c, b, a = (10 * s for s in given.offset)
        file.header.origin = (a, b, c)
    return str(folder / "a.mrc")


def nrrd_of(encoding: str) -> Callable[[Path, Given], str]:
    def write(folder: Path, given: Given) -> str:
        header = {
            "space directions": np.diag(given.scale[::-1]), "space origin": given.offset[::-1],
            "space units": ["nm"] * 3, "space dimension": 3, "kinds": ["domain"] * 3, "encoding": encoding,
        }  # fmt: skip
        nrrd.write(str(folder / "a.nrrd"), given.pixels, header, index_order="C")
        return str(folder / "a.nrrd")

    return write


def nifti(ending: str) -> Callable[[Path, Given], str]:
    def write(folder: Path, given: Given) -> str:
        affine = np.diag((*given.scale[::-1], 1.0)) / 1e3  # µm: nm is no unit of NIfTI
        affine[:3, 3], affine[3, 3] = np.array(given.offset[::-1]) / 1e3, 1
        image = nibabel.Nifti1Image(given.pixels.T, affine, dtype=given.pixels.dtype)
        image.header.set_xyzt_units("micron")
        nibabel.save(image, folder / f"a{ending}")
        return str(folder / f"a{ending}")

    return write


def npy(folder: Path, given: Given) -> str:
    np.save(folder / "a.npy", given.pixels)
    return str(folder / "a.npy")


def n5(folder: Path, given: Given) -> str:
    spec = {
        "driver": "n5", "kvstore": {"driver": "file", "path": f"{folder / 'a.n5' / 's0'}/"},
        "metadata": {
            "dimensions": given.pixels.shape[::-1], "blockSize": given.chunks[::-1],
            "dataType": given.pixels.dtype.name, "compression": {"type": "gzip"},
        },
    }  # fmt: skip
    ts.open(spec, create=True).result().write(given.pixels.T).result()
    space = {
        "pixelResolution": {"dimensions": given.scale[::-1], "unit": "nm"},
        "offset": given.offset[::-1],
    }
    (folder / "a.n5" / "attributes.json").write_text(json.dumps({"n5": "2.0.0", "multiScale": True, **space}))
    return str(folder / "a.n5")


def precomputed(kind: str) -> Callable[[Path, Given], str]:
    def write(folder: Path, given: Given) -> str:
        scale = {
            "size": given.pixels.shape[::-1], "resolution": given.scale[::-1], "chunk_size": given.chunks[::-1],
            "voxel_offset": [round(o / s) for o, s in zip(given.offset, given.scale, strict=True)][::-1],
            "encoding": "raw",
        }  # fmt: skip
        if kind == "segmentation":
            scale |= {
                "encoding": "compressed_segmentation",
                "compressed_segmentation_block_size": (8, 8, 8),
                "sharding": {
                    "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "minishard_bits": 1,
                    "shard_bits": 1, "hash": "identity", "data_encoding": "gzip",
                    "minishard_index_encoding": "gzip",
                },
            }  # fmt: skip
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{folder / 'a.precomputed'}/"},
            "multiscale_metadata": {"data_type": given.pixels.dtype.name, "num_channels": 1, "type": kind},
            "scale_metadata": scale,
        }
        store = ts.open(spec, create=True).result()
        with ts.Transaction() as whole:
            store.with_transaction(whole)[..., 0] = given.pixels.T
        return str(folder / "a.precomputed")

    return write


OME_TYPES = "u1 i1 u2 i2 u4 i4 f4 f8"  # OME knows no integers of 64 bits
FORMATS = {
    "OME-Zarr 0.4": Format(zarr_ome(2)),
    "OME-Zarr 0.5": Format(zarr_ome(3)),
    "OME-TIFF": Format(ome_tiff(), OME_TYPES, thinnest=2),
    "OME-TIFF tiled": Format(ome_tiff(tile=(16, 16), compression="zlib"), OME_TYPES, thinnest=2),
    "OME-TIFF of many files": Format(ome_tiff_many, "u1 u2 i2 f4", keeps="scale"),
    "ImageJ TIFF": Format(imagej, "u1 u2 f4", keeps="scale", thinnest=2),
    "PNG images": Format(sections("png"), "u1 u2", keeps=""),
    "JPEG images": Format(sections("jpg"), "u1", keeps="roughly"),
    "TIFF images": Format(sections("tif"), "u1 u2 i4 f4", keeps=""),
    "HDF5": Format(hdf5),
    "BigDataViewer HDF5": Format(bigdataviewer, "u2"),
    "Imaris": Format(imaris, "u1 u2 u4 f4"),
    "MRC": Format(mrc, "i1 i2 u2 f4"),
    "NRRD raw": Format(nrrd_of("raw")),
    "NRRD gzip": Format(nrrd_of("gzip")),
    "NRRD bzip2": Format(nrrd_of("bzip2")),
    "NIfTI": Format(nifti(".nii")),
    "NIfTI gzip": Format(nifti(".nii.gz")),
    "NumPy": Format(npy, keeps=""),
    "N5": Format(n5),
    "Neuroglancer precomputed image": Format(precomputed("image"), "u1 i1 u2 i2 u4 i4 u8 f4"),
    "Neuroglancer precomputed segmentation": Format(precomputed("segmentation"), "u4 u8"),
}
