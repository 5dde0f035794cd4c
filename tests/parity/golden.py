"""Reading golden numbers: the rule that fills networks, and comparison of full arrays with stored slices."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np


class Golden:
    """One case: `<case>.json` describes every array, `<case>.npz` holds it or a slice of it."""

    def __init__(self, folder: Path, case: str) -> None:
        self.description = json.loads((folder / f"{case}.json").read_text())
        self.arrays = np.load(folder / f"{case}.npz")

    def error(self, name: str, full: Any) -> float:
        """norm(ours - golden) / norm(golden) on whatever part of the array is stored."""
        ours = np.asarray(full, dtype=np.float64)
        entry = self.description["arrays"][name]
        assert list(ours.shape) == entry["full_shape"], f"{name}: {ours.shape} is not {entry['full_shape']}"
        key = name
        if entry["stored"] != "full":
            key = entry.get("slice_key", name)
            ours = eval(entry["slice"], {"full": ours})
        golden = self.arrays[key].astype(np.float64).reshape(ours.shape)
        return float(np.linalg.norm(ours - golden) / np.linalg.norm(golden))

    def scalar(self, name: str) -> float:
        return float(self.description["scalars"][name]["value"])


def load_fill(shared: Path) -> Any:
    """The `fill` function of the reference folder."""
    spec = importlib.util.spec_from_file_location("golden_fill", shared / "goldens" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill
