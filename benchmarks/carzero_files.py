"""From files: does reading keep up with the network, and does memory stay flat over many files?

    python benchmarks/carzero_files.py [--quick] [--json numbers.json]

First: radiograph-like files of 1024 pixels (8-bit PNG, 16-bit DICOM) drawn here, in images per second: reading and
preparing alone (by this process and by 2 others), the full-size ViT-B/16 alone with all threads, and both as
`wordsight predict` combines them: 2 processes read and prepare while the network works. What counts there is how long
the network waits for images, and, for fast networks, how much the main process does for each image besides. Then all
that `wordsight predict` does: 14 prompts, three heatmaps of each image, the page; without processes and with 2.
At last `wordsight predict` with a small network over 5,000 small PNG files, in a process of its own, with its resident
memory after every 1,000. torch is imported in functions, since processes that read import this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from wordsight.data.reading import read_prepared
from wordsight.files import write_json
from wordsight.helpers import Helpers
from wordsight.imaging import CARZERO_INPUT, Prepared
from wordsight.types import Record

if TYPE_CHECKING:
    from wordsight.models.carzero.detector import CarZero
    from wordsight.models.carzero.model import CarZeroNetwork
    from wordsight.models.carzero.text_input import TextInput

WATCH = """
import json, sys
from pathlib import Path
from wordsight.helpers import Helpers
from wordsight.study import PredictOptions, predict_study
from wordsight.study import predict as work
from wordsight.study.options import AskOptions

source, out, model, device, threads = *sys.argv[1:5], int(sys.argv[5])

def resident():
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

class Watched(Helpers):
    def ahead(self, *arguments, **options):
        for count, image in enumerate(super().ahead(*arguments, **options), 1):
            if count % ({count} // 5) == 0:
                print(json.dumps({{"images": count, "mib": resident()}}), flush=True)
            yield image

if __name__ == "__main__":
    import torch
    torch.set_num_threads(threads)
    work.Helpers = Watched
    predict_study(
        PredictOptions(
            model="carzero", weights=Path(model) / "small.safetensors", source=Path(source), out=Path(out),
            device=device, workers=2, maps=False, heatmaps=False, eval_batch=32,
            ask=AskOptions(text=model, prompts="edema, mass", cache=Path(model)),
        )
    )
    print(json.dumps({{"images": "written", "mib": resident()}}), flush=True)
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


def reading_speed(records: list[Record], workers: int) -> tuple[float, float]:
    """Images per second, read and prepared by `workers` processes (0: this one), after their start.

    And seconds of processor time that this process needs for each image meanwhile.
    """
    jobs, first = [(record, CARZERO_INPUT) for record in records], max(2, workers)
    with Helpers(workers, len(jobs), few=1) as helpers:
        found = helpers.ahead(read_prepared, jobs, ahead=8)
        for _ in range(first):
            _array(next(found))
        start, busy = time.perf_counter(), time.process_time()
        for image in found:
            _array(image)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    count = len(records) - first
    return count / seconds, busy / count


def _array(image: Prepared | str) -> np.ndarray[Any, Any]:
    if isinstance(image, str):
        sys.exit(image)
    return image.array


class Network:
    """The full-size image encoder with weights by rule, in batches of 8 (--quick: a small one)."""

    batch = 8

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from carzero_rule import prepared_images, rule_network

        torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        self._network = rule_network(options.quick).to(self.device)
        self._images = prepared_images(self.batch, self._network.settings)

    def encode(self, arrays: Any) -> None:
        """One batch, until its tokens are there."""
        import torch

        with torch.inference_mode():
            self._network.encode_images(arrays.to(self.device)).cpu()

    def speed(self, repeats: int) -> float:
        """Images per second of images that are in memory."""
        self.encode(self._images)
        start = time.perf_counter()
        for _ in range(repeats):
            self.encode(self._images)
        return float(self.batch * repeats / (time.perf_counter() - start))

    def speed_from_files(self, records: list[Record]) -> tuple[float, float]:
        """Images per second from files that 2 processes read meanwhile, and the share of the time spent waiting.

        Both from the second batch on: the first one waits for processes to start.
        """
        import torch

        waited = start = 0.0
        with Helpers(2, len(records), few=1) as helpers:
            found = helpers.ahead(read_prepared, [(record, CARZERO_INPUT) for record in records], ahead=self.batch)
            for first in range(0, len(records), self.batch):
                if first == self.batch:
                    waited, start = 0.0, time.perf_counter()
                before = time.perf_counter()
                arrays = [_array(next(found)) for _ in records[first : first + self.batch]]
                waited += time.perf_counter() - before
                self.encode(torch.from_numpy(np.stack(arrays)))
            seconds = time.perf_counter() - start
        return (len(records) - self.batch) / seconds, waited / seconds

    def speed_with_pictures(self, records: list[Record], workers: int, out: Path) -> float:
        """Images per second from files to table, three heatmaps each and page, start of processes included."""
        from wordsight.report.drawing import Drawing
        from wordsight.report.predictions import prediction_folder
        from wordsight.study.detectors import Looker
        from wordsight.study.predict import predict_records

        detector = asking(self._network, 14)
        looker = Looker(detector.predict, detector.input_spec, self.batch, {})
        keyed = [(str(record.path), record) for record in records]
        start = time.perf_counter()
        with prediction_folder(out, drawing=Drawing()) as writer:
            predict_records(looker, keyed, writer, maps=True, workers=workers)
            writer.finish()
        return len(records) / (time.perf_counter() - start)


def asking(network: CarZeroNetwork, count: int) -> CarZero:
    """A detector with so many made-up prompts; it has no tokenizer, since they are tokens already."""
    import torch
    from carzero_rule import made_up_prompts

    from wordsight.models.carzero.asking import AskedTexts
    from wordsight.models.carzero.detector import CarZero, PromptFeatures
    from wordsight.types import PromptSet

    device = next(network.parameters()).device
    names = tuple(f"finding {number}" for number in range(count))
    with torch.no_grad():
        text = network.encode_texts(made_up_prompts(count, network.settings).to(device))
    owner, tokenizer = torch.arange(count), cast("TextInput", None)
    asked = AskedTexts(network, text)
    found = PromptFeatures(PromptSet(names, tuple((n,) for n in names)), names, count, text, owner, asked)
    return CarZero(network, tokenizer, "rule", found)


def speeds(folder: Path, options: argparse.Namespace) -> dict[str, float | str]:
    """Images per second of the network, of reading, and of both; prints the table."""
    size, count = (64, 24) if options.quick else (1024, 40)
    rng = np.random.default_rng(0)
    network = Network(options)
    alone = network.speed(options.repeats)
    found, notes = {"network alone": alone}, {}
    for kind, write, top in (("PNG", write_png, 255), ("DICOM", write_dicom, 4095)):
        (folder / kind).mkdir()
        paths = [folder / kind / f"{n}.{kind.lower()}" for n in range(count)]
        for path in paths:
            write(path, picture(rng, size, top))
        records = [Record(path) for path in paths]
        for workers in (0, 2):
            name = f"{kind} alone, {workers} workers"
            found[name], busy = reading_speed(records, workers)
            notes[name] = f"main process busy {1000 * busy:.1f} ms per image"
        name = f"{kind} and network, 2 workers"
        found[name], waiting = network.speed_from_files(records)
        notes[name] = f"waiting for images {100 * waiting:.1f} % of the time"
        for workers in (0, 2) if kind == "PNG" else ():
            name = f"{kind} to scores, heatmaps and page, {workers} workers"
            found[name] = network.speed_with_pictures(records[:16], workers, folder / f"out{workers}")
    print(f"\n| {size} x {size} pixels | images/s | of the network | |\n|---|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.1f} | {value / alone:.2f} | {notes.get(name, '')} |")
    return {**found, **{f"{name}: note": note for name, note in notes.items()}}


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


def memory(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Resident memory of a prediction after every fifth of 5,000 files and at the end; prints the table."""
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
    command = [sys.executable, str(script), *names, options.device, str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
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
        write_json(options.json, {"machine": machine(torch.device(options.device)), **found})


if __name__ == "__main__":
    main()
