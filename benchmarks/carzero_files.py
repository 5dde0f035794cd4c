"""From files: does reading keep up with the network, and does memory stay flat over many files?

    python benchmarks/carzero_files.py [--quick] [--json numbers.json]

First: radiograph-like files of 1024 pixels (8-bit PNG, 16-bit DICOM) drawn here, read and prepared for CARZero by this
process, by 1 and by 2 others, in images per second, beside the full-size ViT-B/16 with all threads; reading must be the
faster. Then: `wordsight predict` with a small network over 5,000 small PNG files, in a process of its own, with its
resident memory after 1,000 and after 5,000 images. torch is imported in functions, since processes that read import
this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from wordsight.data import reading
from wordsight.data.reading import read_records
from wordsight.files import write_json
from wordsight.imaging import CARZERO_INPUT, prepare
from wordsight.types import Image, Record

WATCH = """
import json, sys
from pathlib import Path
from wordsight.data import reading
from wordsight.study import PredictOptions, predict_study
from wordsight.study import predict as work
from wordsight.study.options import AskOptions

source, out, model, workers, threads = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])

def resident():
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def watched(*arguments, **options):
    for count, image in enumerate(reading.read_records(*arguments, **options), 1):
        if count in (1000, 5000) or count == {count} // 5:
            print(json.dumps({{"images": count, "mib": resident()}}), flush=True)
        yield image

if __name__ == "__main__":
    import torch
    torch.set_num_threads(threads)
    work.read_records = watched
    predict_study(
        PredictOptions(
            model="carzero", weights=Path(model) / "small.safetensors", source=Path(source), out=Path(out),
            device="cpu", workers=workers, maps=False, heatmaps=False, eval_batch=32,
            ask=AskOptions(text=model, prompts="edema, mass", cache=Path(model)),
        )
    )
    print(json.dumps({{"images": {count}, "mib": resident()}}), flush=True)
"""


def picture(rng: np.random.Generator, size: int, top: int) -> np.ndarray[Any, Any]:
    """A smooth field with noise, as hard to decompress as a radiograph: (size, size) integers in 0..top."""
    rows, columns = np.mgrid[:size, :size] / size
    field = 0.5 + 0.3 * np.sin(6 * rows + rng.random()) * np.cos(5 * columns) + rng.normal(0, 0.01, (size, size))
    return np.asarray(np.clip(field * top, 0, top).round(), dtype=np.uint16 if top > 255 else np.uint8)


def write_png(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """8-bit grey PNG."""
    from PIL import Image as Pillow

    Pillow.fromarray(pixels).save(path)


def write_dicom(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """12 bits in 16, explicit VR little endian, uncompressed, as most radiographs are kept."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PhotometricInterpretation = "DX", "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit = 1, 16, 12, 11
    file.PixelRepresentation, file.PixelData = 0, pixels.astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)


def reading_speed(records: list[Record], workers: int) -> float:
    """Images per second, read by `workers` processes (0: this one) and prepared here, after their start."""
    reading.INLINE = 1
    found = read_records(records, workers=workers, ahead=8)
    first = max(2, workers)
    for _ in range(first):
        _prepared(next(found))
    start = time.perf_counter()
    for image in found:
        _prepared(image)
    return (len(records) - first) / (time.perf_counter() - start)


def _prepared(image: Image | str) -> None:
    if isinstance(image, str):
        sys.exit(image)
    prepare(image, CARZERO_INPUT)


def network_speed(options: argparse.Namespace) -> float:
    """Images per second of the image encoder, batches of 8."""
    import torch
    from carzero_rule import prepared_images, rule_network

    torch.set_num_threads(options.threads)
    network = rule_network(options.quick)
    images = prepared_images(8, network.settings)
    with torch.inference_mode():
        network.encode_images(images)
        start = time.perf_counter()
        for _ in range(options.repeats):
            network.encode_images(images)
    seconds = time.perf_counter() - start
    return float(8 * options.repeats / seconds)


def speeds(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Images per second of the network and of reading; prints the table."""
    size, count = (64, 24) if options.quick else (1024, 48)
    rng = np.random.default_rng(0)
    found = {"network": network_speed(options)}
    for kind, write, top in (("PNG", write_png, 255), ("DICOM", write_dicom, 4095)):
        (folder / kind).mkdir()
        paths = [folder / kind / f"{n}.{kind.lower()}" for n in range(count)]
        for path in paths:
            write(path, picture(rng, size, top))
        for workers in (0, 1, 2):
            found[f"{kind}, {workers} workers"] = reading_speed([Record(path) for path in paths], workers)
    print(f"\n| {size} x {size} pixels | images/s | of the network |\n|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.1f} | {value / found['network']:.1f} |")
    return found


def small_model(folder: Path) -> None:
    """Weights by rule of a small CARZero, and a tokenizer of letters."""
    from carzero_rule import rule_network

    from wordsight.models.carzero.weights import write_safetensors

    network = rule_network(True)
    folder.mkdir()
    write_safetensors(folder / "small.safetensors", network)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    kind = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")


def memory(folder: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    """Resident memory of a prediction after 1,000 and 5,000 files; prints the table."""
    count = 200 if options.quick else 5000
    source = folder / "many"
    source.mkdir()
    rng = np.random.default_rng(1)
    for number in range(count):
        write_png(source / f"{number:05d}.png", picture(rng, 64, 255))
    script = folder / "watch.py"
    script.write_text(WATCH.format(count=count), encoding="utf-8")
    small_model(folder / "model")
    names = [str(source), str(folder / "out"), str(folder / "model")]
    command = [sys.executable, str(script), *names, "2", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, float]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print("\n| images predicted | resident MiB |\n|---|---|")
    for row in found:
        print(f"| {row['images']} | {row['mib']:.0f} |")
    print(f"growth from the first row to the last: {found[-1]['mib'] - found[0]['mib']:+.0f} MiB", flush=True)
    return found


def main() -> None:
    """Both tables, in a temporary folder."""
    import torch
    from suite import machine, suite_parser

    options = suite_parser(__doc__, repeats=4).parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {"images_per_second": speeds(Path(name), options), "memory": memory(Path(name), options)}
    if options.json:
        write_json(options.json, {"machine": machine(torch.device("cpu")), **found})


if __name__ == "__main__":
    main()
