"""`doctor`: what this installation can do, why it cannot do the rest, and what its caches take."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import domainvl
from domainvl.cache import cache_root
from domainvl.console.arguments import Option, split
from domainvl.console.shadow import check_shadowing
from domainvl.errors import CommandError, near

_OPTIONS = {
    "--clear": Option("CACHE", "delete a cache, or all of them; what is needed is made again", many=True),
}
_SEE = "python -m domainvl doctor --help"
_CORE = (
    "torch",
    "lightning",
    "transformers",
    "peft",
    "timm",
    "monai",
    "open_clip_torch",
    "safetensors",
    "huggingface_hub",
)
_CACHES = {
    "samples": "procedural data sets",
    "views": "image features of frozen towers",
    "texts": "text features of frozen towers",
    "volumes": "prepared CT volumes",
    "fingerprints": "small copies that images are compared by",
}


@dataclass(frozen=True)
class Reader:
    """A library that reads a kind of file.

    Attributes:
        module: What is imported.
        package: What is installed.
        reads: What for.
        needed: Whether domainvl installs it; the others are the user's choice.
    """

    module: str
    package: str
    reads: str
    needed: bool = True


_READERS = (
    Reader("PIL.Image", "pillow", "JPEG and PNG"),
    Reader("pydicom", "pydicom", "DICOM"),
    Reader("pylibjpeg", "pylibjpeg", "compressed DICOM, with pylibjpeg-openjpeg", needed=False),
    Reader("gdcm", "python-gdcm", "compressed DICOM, instead of pylibjpeg", needed=False),
    Reader("SimpleITK", "SimpleITK", "NIfTI, NRRD and MetaImage"),
    Reader("openslide", "openslide-python", "whole slides"),
    Reader("tifffile", "tifffile", "pyramidal TIFF"),
    Reader("simplejpeg", "simplejpeg", "JPEG tiles of slides"),
    Reader("imagecodecs", "imagecodecs", "JPEG 2000 tiles"),
    Reader("h5py", "h5py", "HDF5 features"),
    Reader("rasterio", "rasterio", "GeoTIFF"),
    Reader("onnxruntime", "onnxruntime", "exported ONNX models", needed=False),
    Reader("pyarrow.parquet", "pyarrow", "predictions in Parquet", needed=False),
)


def main(words: list[str]) -> int:
    """Run `doctor`; the exit status is 1 where something that every run needs is broken."""
    arguments = split("doctor", words, _OPTIONS)
    if arguments.help is not None:
        rows = "\n".join(f"  {f'{name} {option.value}':14s}  {option.text}" for name, option in _OPTIONS.items())
        print(
            "usage: python -m domainvl doctor [--clear CACHE ... | --clear all]\n\n"
            f"Show versions, devices, readers, caches and folders in the way.\n\noptions:\n{rows}\n\ncaches:\n"
            + "\n".join(f"  {name:14s}  {text}" for name, text in _CACHES.items())
        )
        return 0
    if arguments.recipes or arguments.overrides:
        extra = next(iter([*map(str, arguments.recipes), *arguments.overrides]))
        raise CommandError(f"doctor takes no {extra}", see=_SEE)
    if "--clear" in arguments.options:
        return _clear(arguments.options["--clear"])
    healthy = True
    for title, part in (
        ("versions", _versions),
        ("device", _devices),
        ("readers", _readers),
        ("caches", _caches),
        ("folders in the way", _shadows),
    ):
        print(f"{title}")
        lines, well = part()
        print("\n".join(f"  {line}" for line in lines) + "\n")
        healthy &= well
    print("all is well" if healthy else "something that runs need is missing; see above")
    return 0 if healthy else 1


def _versions() -> tuple[list[str], bool]:
    lines = [f"{'domainvl':18s}{domainvl.__version__}  {Path(domainvl.__file__).parent}"]
    lines.append(f"{'python':18s}{platform.python_version()}  {sys.executable}")
    found = {name: _version(name) for name in _CORE}
    lines += [f"{name:18s}{number or 'MISSING: pip install ' + name}" for name, number in found.items()]
    return lines, all(found.values())


def _devices() -> tuple[list[str], bool]:
    try:
        import torch
    except ImportError as error:
        return [f"torch cannot be loaded: {_first_line(error)}"], False
    lines = [f"cpu: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        lines.append("mps: Apple GPU")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        lines.append(f"no GPU is seen; this torch is built for {'CUDA ' + built if built else 'the CPU alone'}")
    return lines, True


def _readers() -> tuple[list[str], bool]:
    lines, well = [], True
    for reader in _READERS:
        problem = _problem(reader.module)
        if problem is None:
            lines.append(f"{reader.package:18s}{_version(reader.package) or '':12s}{reader.reads}")
            continue
        well &= not reader.needed
        said = "MISSING" if reader.needed else "not there, not needed by most"
        lines.append(f"{reader.package:18s}{said} ({reader.reads}): {problem}; pip install {reader.package}")
    return lines, well


def _caches() -> tuple[list[str], bool]:
    root = cache_root()
    lines = [f"{root} (DOMAINVL_CACHE moves it)"]
    known = {**_CACHES, **{place.name: "" for place in _folders(root) if place.name not in _CACHES}}
    for name, text in known.items():
        size = _size(root / name)
        if size:
            lines.append(f"{name:14s}{_bytes(size):>10s}  {text}")
    lines.append(f"free on that disk: {_bytes(shutil.disk_usage(_existing(root)).free)}")
    lines.append("clear one: python -m domainvl doctor --clear NAME")
    return lines, True


def _shadows() -> tuple[list[str], bool]:
    try:
        check_shadowing()
    except CommandError as error:
        return error.text().splitlines(), False
    return ["none"], True


def _clear(names: list[str]) -> int:
    """Delete caches; nothing outside the cache folder is touched, whatever a name says."""
    root = cache_root()
    there = {place.name: place for place in _folders(root)}
    chosen = list(there) if names == ["all"] else names
    for name in chosen:
        if name not in there and name not in _CACHES:
            raise CommandError(
                f"--clear {name}: there is no such cache; known: {', '.join({**_CACHES, **there})} or all",
                meant=near(name, {**_CACHES, **there}),
                see=_SEE,
            )
    for name in chosen:
        if name not in there:
            print(f"{name}: nothing there")
            continue
        size = _size(there[name])
        shutil.rmtree(there[name])
        print(f"cleared {name}: {_bytes(size)}")
    return 0


def _folders(root: Path) -> list[Path]:
    """Caches that are there; a link is none, for it may point anywhere."""
    return (
        sorted(place for place in root.iterdir() if place.is_dir() and not place.is_symlink()) if root.is_dir() else []
    )


def _size(folder: Path) -> int:
    total = 0
    for place in folder.rglob("*"):
        try:
            total += place.lstat().st_size if place.is_file() else 0
        except FileNotFoundError:
            continue  # another process tidies up
    return total


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _problem(module: str) -> str | None:
    """Why a library cannot be used; None where it can."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        # OSError: the package is there, and a library of the system that it needs is not.
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
