"""evaluate: a small torch-free detector on written files, broken ones among them."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image as PillowImage

from wordsight.data import hash_records
from wordsight.errors import DataError, ImageError, MetricError, SettingsError
from wordsight.evaluate import combine, evaluate
from wordsight.imaging import InputSpec, mla_input, prepare, prepare_mask, read_mask
from wordsight.metrics import auroc, average_precision, pixel_auroc, pixel_average_precision, pro
from wordsight.types import Geometry, Prediction, Record, ScoreKind

SIZE = 20
SPEC = mla_input(SIZE)


@dataclass(frozen=True)
class Bright:
    """Calls bright pixels abnormal: the map is the prepared grey image, the score its maximum."""

    spec: InputSpec = SPEC
    name: str = "bright"
    findings: tuple[str, ...] = ("abnormal",)
    score_kind: ScoreKind = ScoreKind.DISTANCE
    with_maps: bool = True

    @property
    def input_spec(self):
        return self.spec

    def one(self, image):
        array, geometry = prepare(image, self.spec)
        return array.mean(axis=0), geometry, image.source

    def predict(self, images):
        return [self.prediction(*self.one(image)) for image in images]

    def prediction(self, values, geometry, source):
        scores = np.array([values.max() / (k + 1) for k in range(len(self.findings))], dtype=np.float32)
        maps = np.stack([values] * len(self.findings)).astype(np.float32) if self.with_maps else None
        return Prediction(self.findings, scores, self.score_kind, maps, geometry, "w" * 16, source)


@dataclass(frozen=True)
class Scaled(Bright):
    """The same with raw values apart from their scale; counts how often each image is looked at."""

    low: float = 0.0
    high: float = 1.0
    looks: list = None

    def raw(self, images):
        if self.looks is not None:
            self.looks.extend(image.source for image in images)
        return [self.one(image) for image in images]

    def with_scale_from(self, raws):
        return replace(self, low=min(r[0].min() for r in raws), high=max(r[0].max() for r in raws))

    def finish(self, raws):
        return [self.prediction((v - self.low) / (self.high - self.low), g, s) for v, g, s in raws]

    def predict(self, images):
        raise AssertionError("raw and finish are to be used")


class Plain:
    """No input_spec: a (5, 7) map of block means over the whole image, placed by its geometry alone."""

    name, findings, score_kind = "plain", ("abnormal",), ScoreKind.LOGIT

    def __init__(self, shape=(5, 7), crop=0):
        self.shape, self.crop = shape, crop

    def predict(self, images):
        return [self._one(image) for image in images]

    def _one(self, image):
        h, w = self.shape
        scale = (h / (image.shape[0] - 2 * self.crop), w / (image.shape[1] - 2 * self.crop))
        geometry = Geometry(image.shape, (h, w), scale, (-self.crop * scale[0], -self.crop * scale[1]))
        centres = geometry.to_image_points(np.stack([np.arange(max(h, w)) + 0.5] * 2, axis=1)).astype(int)
        centres = np.clip(centres, 0, np.array(image.shape) - 1)
        values = image.grey()[np.ix_(centres[:h, 0], centres[:w, 1])]
        return Prediction(
            self.findings, values.max(keepdims=True)[0, :1], self.score_kind, values[None], geometry, "p", image.source
        )


def write(folder, count=10, shape=(33, 41), masks=True, regions=False, seed=0):
    """PNG images; every second is abnormal with a faint bright square and its mask; two images per patient."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        pixels = rng.integers(40, 150, size=shape).astype(np.uint8)
        mask = np.zeros(shape, dtype=np.uint8)
        label = i % 2
        if label:
            row, column = rng.integers(2, shape[0] - 12), rng.integers(2, shape[1] - 12)
            mask[row : row + 9, column : column + 9] = 255
            pixels[mask > 0] += 30
        path = folder / f"{i:02d}.png"
        PillowImage.fromarray(pixels).save(path)
        mask_path = region_path = None
        if masks and label:
            mask_path = folder / "masks" / path.name
            mask_path.parent.mkdir(exist_ok=True)
            PillowImage.fromarray(mask).save(mask_path)
        if regions:
            region_path = folder / "regions" / path.name
            region_path.parent.mkdir(exist_ok=True)
            region = np.zeros(shape, dtype=np.uint8)
            region[4:-4, 4:-4] = 1
            PillowImage.fromarray(region).save(region_path)
        records.append(Record(path, label, mask_path, region_path, patient=f"p{i // 2}"))
    return records


def run(detector, records, **options):
    settings = {"dataset": "Toy", "protocol": {"selection": "last"}, "bootstrap_draws": 50, "progress": False}
    return evaluate(detector, records, **(settings | options))


def values_of(evaluation):
    return {name: number.value for name, number in evaluation.numbers.items()}


def test_numbers_are_those_of_the_arrays(tmp_path):
    records = write(tmp_path, regions=True)
    evaluation = run(Bright(), records, batch_size=3)
    assert evaluation.labels.tolist() == [r.label for r in records]
    expected = [Bright().predict([_read(r)])[0] for r in records]
    np.testing.assert_array_equal(evaluation.scores, [p.scores[0] for p in expected])
    np.testing.assert_array_equal(evaluation.maps, [p.maps[0] for p in expected])
    spec = mla_input(SIZE)
    masks = np.array(
        [prepare_mask(read_mask(r.mask), spec) if r.mask else np.zeros((SIZE, SIZE), bool) for r in records]
    )
    regions = np.array([prepare_mask(read_mask(r.region), spec) for r in records])
    np.testing.assert_array_equal(evaluation.masks, masks)
    assert masks.any(axis=(1, 2)).tolist() == [bool(r.label) for r in records]
    assert values_of(evaluation) == {
        "image_auroc": auroc(evaluation.labels, evaluation.scores),
        "image_ap": average_precision(evaluation.labels, evaluation.scores),
        "pixel_auroc": pixel_auroc(evaluation.maps, masks),
        "pixel_ap": pixel_average_precision(evaluation.maps, masks),
        "pro": pro(evaluation.maps, masks),
        "region_auroc": pixel_auroc(evaluation.maps, masks, regions),
        "region_ap": pixel_average_precision(evaluation.maps, masks, regions),
    }
    assert all(number.low <= number.value <= number.high for number in evaluation.numbers.values())
    assert evaluation.maps.dtype == np.float32
    assert evaluation.masks.dtype == np.bool_


def _read(record):
    from wordsight.imaging import read_image

    return read_image(record.path)


def test_what_travels_with_the_numbers(tmp_path):
    records = write(tmp_path)
    evaluation = run(Bright(), records, seed=7)
    assert (evaluation.dataset, evaluation.method, evaluation.kind) == ("Toy", "bright", ScoreKind.DISTANCE)
    assert evaluation.protocol == {"selection": "last", "mask_rule": "any", "transductive": False}
    assert evaluation.names == tuple(f"{i:02d}.png" for i in range(10))
    assert evaluation.paths == tuple(str(r.path) for r in records)
    assert evaluation.groups == tuple(f"p{i // 2}" for i in range(10))
    assert evaluation.interval == "95 % bootstrap over 5 patients, 50 draws, seed 7"
    assert evaluation.data_hash == hash_records(records)
    assert (evaluation.weights, evaluation.failures) == ("w" * 16, ())
    assert evaluation.version.count(".") >= 2


def test_summary_is_plain_json(tmp_path):
    records = write(tmp_path)
    (tmp_path / "03.png").write_bytes(b"no image")
    summary = run(Bright(), records).summary()
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again == summary
    counts = {"images": 9, "abnormal": 4, "normal": 5, "groups": 5, "with_mask": 4, "failed": 1}
    assert summary["counts"] == counts
    assert summary["failures"][0]["path"].endswith("03.png")
    assert set(summary["numbers"]["pro"]) == {"value", "low", "high", "n", "note"}


def test_order_and_batches_do_not_matter(tmp_path):
    records = write(tmp_path, regions=True)
    first = run(Bright(), records, batch_size=1)
    second = run(Bright(), records[::-1], batch_size=4)
    assert first.names == second.names[::-1]
    assert first.data_hash == second.data_hash
    for name, number in first.numbers.items():
        other = second.numbers[name]
        assert (other.value, other.low, other.high) == pytest.approx((number.value, number.low, number.high), abs=1e-9)


def test_broken_files_are_listed_and_the_rest_measured(tmp_path):
    records = write(tmp_path)
    records[0].path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    records[3].mask.write_bytes(b"")
    records[5] = replace(records[5], path=tmp_path / "gone.png")
    evaluation = run(Bright(), records, batch_size=3)
    assert [path for path, _ in evaluation.failures] == [str(records[i].path) for i in (0, 3, 5)]
    kept = [r for i, r in enumerate(records) if i not in (0, 3, 5)]
    alone = run(Bright(), kept)
    assert evaluation.names == alone.names
    assert evaluation.numbers == alone.numbers
    assert evaluation.data_hash == alone.data_hash
    assert evaluation.maps.shape == (7, SIZE, SIZE)


def test_a_mask_of_another_size_costs_the_pixels_alone(tmp_path):
    records = write(tmp_path)
    whole = run(Bright(), records)
    PillowImage.fromarray(np.full((7, 9), 255, dtype=np.uint8)).save(records[7].mask)
    evaluation = run(Bright(), records)
    assert evaluation.names == whole.names
    assert evaluation.numbers["image_auroc"] == whole.numbers["image_auroc"]
    assert evaluation.failures == ((str(records[7].mask), evaluation.failures[0][1]),)
    assert "expected a mask of the image's (33, 41), got (7, 9): the image counts" in evaluation.failures[0][1]
    note = "1 abnormal images without a mask left out, 1 of them for a mask of another size"
    assert evaluation.numbers["pixel_auroc"].note.startswith(note)
    without = run(Bright(), [replace(r, mask=None) if i == 7 else r for i, r in enumerate(records)])
    assert evaluation.numbers["pixel_auroc"].value == without.numbers["pixel_auroc"].value


@pytest.mark.parametrize("transductive", [False, True])
def test_reading_ahead_changes_nothing(tmp_path, transductive):
    records = write(tmp_path, 38, regions=True)
    records[3].path.write_bytes(b"no image")
    records[5].mask.write_bytes(b"no image")
    PillowImage.fromarray(np.full((7, 9), 255, np.uint8)).save(records[7].mask)
    records[8].path.unlink()
    options = {"dataset": "d", "protocol": {}, "batch_size": 5, "bootstrap_draws": 0, "progress": False}
    detector = Scaled() if transductive else Bright()
    alone, together = (
        evaluate(detector, records, transductive=transductive, workers=workers, **options) for workers in (0, 2)
    )
    assert len(alone.failures) == 4
    assert together.failures == alone.failures
    assert together.names == alone.names
    assert np.array_equal(together.scores, alone.scores)
    assert np.array_equal(together.maps, alone.maps, equal_nan=True)
    assert np.array_equal(together.masks, alone.masks)
    assert together.numbers.keys() == alone.numbers.keys()
    assert all(together.numbers[name].value == number.value for name, number in alone.numbers.items())
    with pytest.raises(SettingsError, match="workers: expected 0 processes or more"):
        evaluate(detector, records, transductive=transductive, workers=-1, **options)


def test_all_broken_is_an_error_with_the_first_five(tmp_path):
    records = write(tmp_path, count=7)
    for record in records:
        record.path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"all 7 failed(.|\n)*00\.png(.|\n)*04\.png") as caught:
        run(Bright(), records)
    assert "05.png" not in str(caught.value)


def test_an_image_the_detector_refuses_is_set_aside_alone(tmp_path):
    class Choosy(Bright):
        def one(self, image):
            if image.source.endswith("04.png"):
                raise ImageError("expected a chest, got a cat")
            return super().one(image)

    evaluation = run(Choosy(), write(tmp_path), batch_size=8)
    assert len(evaluation.names) == 9
    assert evaluation.failures == ((str(tmp_path / "04.png"), "expected a chest, got a cat"),)


def test_other_errors_of_a_detector_are_not_hidden(tmp_path):
    class Wrong(Bright):
        def one(self, image):
            raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run(Wrong(), write(tmp_path))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_undefined_with_the_reason(tmp_path, label):
    records = [r for r in write(tmp_path) if r.label == label]
    evaluation = run(Bright(), records)
    assert str(evaluation.numbers["image_auroc"]) == "undefined (only one class)"
    assert evaluation.summary()["numbers"]["image_ap"]["value"] is None
    assert ("pro" in evaluation.numbers) == bool(label)
    if label:
        assert evaluation.numbers["pro"].defined


def test_without_masks_or_maps_only_image_numbers(tmp_path):
    records = write(tmp_path, masks=False)
    evaluation = run(Bright(), records)
    assert set(evaluation.numbers) == {"image_auroc", "image_ap"}
    assert evaluation.masks is None
    assert evaluation.maps.shape == (10, SIZE, SIZE)
    (tmp_path / "more").mkdir()
    bare = run(Bright(with_maps=False), write(tmp_path / "more"))
    assert (bare.maps, bare.masks) == (None, None)
    assert set(bare.numbers) == {"image_auroc", "image_ap"}


def test_abnormal_images_without_a_mask_do_not_count_as_normal_pixels(tmp_path):
    records = write(tmp_path)
    partly = [replace(r, mask=None) if i == 1 else r for i, r in enumerate(records)]
    evaluation = run(Bright(), partly)
    number = evaluation.numbers["pixel_auroc"]
    assert number.value == run(Bright(), [r for i, r in enumerate(records) if i != 1]).numbers["pixel_auroc"].value
    assert (number.n, number.note) == (9, "1 abnormal images without a mask left out")
    assert evaluation.numbers["image_auroc"].n == 10


def test_images_without_a_region_are_left_out_of_region_numbers(tmp_path):
    records = write(tmp_path, regions=True)
    partly = [replace(r, region=None) if i == 2 else r for i, r in enumerate(records)]
    number = run(Bright(), partly).numbers["region_auroc"]
    expected = run(Bright(), [r for i, r in enumerate(records) if i != 2]).numbers["region_auroc"]
    assert (number.value, number.n) == (expected.value, 9)
    assert number.note == "1 images without a region left out"


def test_groups_are_images_where_no_patient_is_known(tmp_path):
    records = [replace(r, patient=None) for r in write(tmp_path)]
    assert run(Bright(), records).interval == "95 % bootstrap over 10 images, 50 draws, seed 0"
    some = [replace(r, patient="p") if i < 2 else r for i, r in enumerate(records)]
    evaluation = run(Bright(), some)
    assert evaluation.interval.startswith("95 % bootstrap over 9 patients or images")
    assert evaluation.groups[:3] == ("p", "p", "02.png")


def test_no_draws_no_intervals(tmp_path):
    evaluation = run(Bright(), write(tmp_path), bootstrap_draws=0)
    assert evaluation.interval == "none"
    assert all(math.isnan(n.low) and n.defined for n in evaluation.numbers.values())


def test_the_mask_rule_is_followed(tmp_path):
    records = write(tmp_path)
    faint = np.array(PillowImage.open(records[1].mask)) // 4
    PillowImage.fromarray(faint).save(records[1].mask)
    assert run(Bright(), records).masks[1].any()
    half = run(Bright(), records, mask_rule="half")
    assert not half.masks[1].any()
    assert half.protocol["mask_rule"] == "half"


def test_raw_detectors_look_once_and_scale_over_the_whole_set(tmp_path):
    records = write(tmp_path)
    looks = []
    evaluation = run(Scaled(looks=looks), records, transductive=True, batch_size=3)
    assert sorted(looks) == sorted(str(r.path) for r in records)
    assert evaluation.maps.min() == 0.0
    assert evaluation.maps.max() == 1.0
    assert evaluation.protocol["transductive"] is True
    looks.clear()
    plain = run(Scaled(looks=looks), records, batch_size=3)
    assert sorted(looks) == sorted(str(r.path) for r in records)
    assert plain.maps.max() < 1.0
    np.testing.assert_array_equal(plain.scores, run(Bright(), records).scores)
    np.testing.assert_array_equal(evaluation.masks, plain.masks)
    # One scale for all pixels and images: ranking, and with it every number, stays.
    assert values_of(evaluation) == pytest.approx(values_of(plain), abs=1e-6)


def test_transductive_goes_on_after_broken_files(tmp_path):
    records = write(tmp_path)
    records[2].path.write_bytes(b"broken")
    evaluation = run(Scaled(), records, transductive=True)
    assert len(evaluation.names) == 9
    assert len(evaluation.failures) == 1


def test_transductive_needs_a_detector_that_can(tmp_path):
    with pytest.raises(SettingsError, match="raw, with_scale_from and finish for transductive=True, got bright"):
        run(Bright(), write(tmp_path, count=2), transductive=True)


def test_several_findings_need_a_choice(tmp_path):
    records = write(tmp_path)
    both = Bright(findings=("mass", "nodule"))
    with pytest.raises(MetricError, match=r"one finding, got mass, nodule\. Choose one with finding="):
        run(both, records)
    with pytest.raises(MetricError, match="finding= one of mass, nodule, got 'edema'"):
        run(both, records, finding="edema")
    evaluation = run(both, records, finding="nodule")
    np.testing.assert_allclose(evaluation.scores, run(Bright(), records).scores / 2)
    assert evaluation.protocol["finding"] == "nodule"


def test_labels_by_name_are_used_for_a_finding(tmp_path):
    records = [replace(r, label=None, labels={"mass": int(i < 5)}) for i, r in enumerate(write(tmp_path))]
    evaluation = run(Bright(findings=("mass", "nodule")), records, finding="mass")
    assert evaluation.labels.tolist() == [1] * 5 + [0] * 5
    with pytest.raises(DataError, match="a label of 'nodule', 0 or 1, for every record; 10 of 10 have none"):
        run(Bright(findings=("mass", "nodule")), records, finding="nodule")


def test_unlabelled_records_and_bad_settings_are_refused(tmp_path):
    records = write(tmp_path)
    with pytest.raises(DataError, match=r"for every record; 2 of 10 have none: 03\.png, 08\.png"):
        run(Bright(), [replace(r, label=None) if i in (3, 8) else r for i, r in enumerate(records)])
    with pytest.raises(DataError, match="at least one record to evaluate, got none"):
        run(Bright(), [])
    with pytest.raises(SettingsError, match="batch_size >= 1, got 0"):
        run(Bright(), records, batch_size=0)
    with pytest.raises(SettingsError, match="bootstrap_draws >= 0, got -1"):
        run(Bright(), records, bootstrap_draws=-1)
    with pytest.raises(SettingsError, match="mask rule 'any' or 'half', got 'most'"):
        run(Bright(), [replace(r, mask=None) for r in records], mask_rule="most")


def test_predictions_that_do_not_fit_together_are_refused(tmp_path):
    records = write(tmp_path)

    class Broken(Bright):
        def predict(self, images):
            return [replace(p, scores=np.array([np.nan], dtype=np.float32)) for p in super().predict(images)]

    class Partial(Bright):
        def predict(self, images):
            found = super().predict(images)
            return [replace(p, maps=None) if p.source.endswith("02.png") else p for p in found]

    class Varying(Plain):
        def predict(self, images):
            return [Plain((5, 6 + int(i.source.endswith("02.png"))))._one(i) for i in images]

    with pytest.raises(MetricError, match=r"00\.png: expected a finite score, got nan"):
        run(Broken(), records)
    with pytest.raises(MetricError, match=r"02\.png: expected maps for all images or for none"):
        run(Partial(), records)
    with pytest.raises(
        MetricError, match=r"02\.png: expected a map of shape \(5, 6\) like the first one, got \(5, 7\)"
    ):
        run(Varying(), records)


@pytest.mark.parametrize("shape", [(20, 20), (33, 41), (66, 82), (11, 7)])
def test_without_a_spec_masks_are_placed_by_the_geometry(tmp_path, shape):
    records = write(tmp_path, count=4)
    evaluation = run(Plain(shape), records)
    expected = prepare_mask(read_mask(records[1].mask), mla_input(20)) if shape == (20, 20) else None
    if expected is not None:
        np.testing.assert_array_equal(evaluation.masks[1], expected)
    if shape == (33, 41):
        np.testing.assert_array_equal(evaluation.masks[1], read_mask(records[1].mask))
    if shape == (66, 82):
        doubled = np.kron(read_mask(records[1].mask), np.ones((2, 2), dtype=bool))
        np.testing.assert_array_equal(evaluation.masks[1], doubled)
    assert evaluation.masks[1].mean() == pytest.approx(81 / (33 * 41), abs=0.05)
    assert not np.isnan(evaluation.maps).any()


def test_a_cropped_map_meets_the_cropped_mask(tmp_path):
    records = write(tmp_path, count=4)
    evaluation = run(Plain((23, 31), crop=5), records)
    np.testing.assert_array_equal(evaluation.masks[3], read_mask(records[3].mask)[5:-5, 5:-5])


def test_padding_does_not_count(tmp_path):
    records = write(tmp_path, count=4)
    evaluation = run(Plain((43, 51), crop=-5), records)
    assert np.isnan(evaluation.maps[:, :5]).all()
    assert np.isnan(evaluation.maps[:, :, -5:]).all()
    inner = run(Plain((33, 41)), records)
    np.testing.assert_array_equal(evaluation.maps[:, 5:-5, 5:-5], inner.maps)
    np.testing.assert_array_equal(evaluation.masks[:, 5:-5, 5:-5], inner.masks)
    assert values_of(evaluation)["pixel_auroc"] == values_of(inner)["pixel_auroc"]


def test_coarse_maps_are_brought_to_the_prepared_grid(tmp_path):
    class Coarse(Bright):
        def prediction(self, values, geometry, source):
            return super().prediction(values.reshape(5, 4, 5, 4).mean(axis=(1, 3)), geometry, source)

    records = write(tmp_path, count=4)
    evaluation = run(Coarse(), records)
    assert evaluation.maps.shape == evaluation.masks.shape == (4, SIZE, SIZE)
    np.testing.assert_array_equal(evaluation.masks, run(Bright(), records).masks)


def test_frames_of_one_file_are_images_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    pages = [PillowImage.fromarray(rng.integers(0, 99 + 100 * i, (12, 12)).astype(np.uint8)) for i in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    levels = [PillowImage.fromarray(np.full((12, 12), 0, np.uint8)), PillowImage.fromarray(np.eye(12, dtype=np.uint8))]
    levels[0].save(tmp_path / "m.tif", save_all=True, append_images=levels[1:])
    records = [Record(tmp_path / "a.tif", i, tmp_path / "m.tif", frame=i) for i in range(2)]
    evaluation = run(Bright(mla_input(12)), records)
    assert evaluation.names == ("a.tif#0", "a.tif#1")
    np.testing.assert_array_equal(evaluation.masks[1], np.eye(12, dtype=bool))


def test_combine_gives_mean_and_deviation(tmp_path):
    records = write(tmp_path)
    runs = [run(Bright(), records), run(Bright(), records), run(Bright(), records)]
    values = [0.7, 0.8, 0.9]
    runs = [
        replace(e, numbers={"image_auroc": replace(e.numbers["image_auroc"], value=v)})
        for e, v in zip(runs, values, strict=True)
    ]
    spread = combine(runs)["image_auroc"]
    assert (spread.mean, spread.std, spread.n) == (pytest.approx(0.8), pytest.approx(np.std(values, ddof=1)), 3)
    with pytest.raises(MetricError, match="at least one evaluation to combine"):
        combine([])
    with pytest.raises(MetricError, match="evaluations of one dataset, got Other, Toy"):
        combine([runs[0], replace(runs[1], dataset="Other")])


def test_progress_is_counted_once_per_record(tmp_path, monkeypatch):
    seen = []

    class Bar:
        def advance(self, steps=1):
            seen.append(steps)

    from contextlib import nullcontext

    monkeypatch.setattr("wordsight.progress.progress", lambda *a, **k: nullcontext(Bar()))
    records = write(tmp_path, count=4)
    records[0].path.write_bytes(b"broken")
    monkeypatch.setattr("wordsight.data.hash_records", lambda records: "h")
    run(Bright(), records, progress=True)
    assert seen == [1] * 4


def test_a_real_set_with_organ_masks(shared):
    folder = shared / "data" / "LiverCT_AD" / "test"
    organ = shared / "data" / "LiverCT_organ_mask"
    if not folder.is_dir():
        pytest.skip("no liver set in the reference folder")
    names = sorted(p.name for p in (folder / "Ungood" / "img").iterdir())[:8]
    records = [
        Record(folder / kind / "img" / name, label, mask, organ / name, patient=name.split("_")[0])
        for name in names
        for kind, label, mask in (("good", 0, None), ("Ungood", 1, folder / "Ungood" / "anomaly_mask" / name))
    ]
    evaluation = run(Bright(mla_input(240)), records)
    assert evaluation.maps.shape == (16, 240, 240)
    assert evaluation.masks.any(axis=(1, 2)).tolist() == [False, True] * 8
    assert set(evaluation.numbers) >= {"pro", "region_auroc"}
    assert evaluation.interval.startswith(f"95 % bootstrap over {len({n.split('_')[0] for n in names})} patients")
