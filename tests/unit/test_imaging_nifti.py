"""NIfTI: orientation against nibabel, slices, windows, limits and damage."""

import gzip
import itertools
import struct
import time

import nibabel
import numpy as np
import pytest

from imaging_samples import nifti
from wordsight.errors import ImageError, ImageTooLarge
from wordsight.imaging import image_count, read_image, sniff

VOLUME = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)


def values(image) -> np.ndarray:
    return np.rint(image.pixels * 255).astype(np.uint8)


def shown_by_nibabel(array, affine, index) -> np.ndarray:
    """Axial slice, anterior up, the patient's right at image left, by way of the canonical volume."""
    canonical = np.asanyarray(nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine)).dataobj)
    return canonical[::-1, ::-1, index].T


ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_all_48_orientations(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(np.array([0.5, 0.75, 2.0]) * signs)[:, list(order)]
    affine[:3, 3] = (-3, 7, 11)
    data = nifti(VOLUME, affine)
    count = VOLUME.shape[order.index(2)]
    assert image_count(data) == count
    for index in range(count):
        image = read_image(data, frame=index)
        np.testing.assert_array_equal(values(image), shown_by_nibabel(VOLUME, affine, index))
        assert image.spacing_mm == pytest.approx((0.75, 0.5))


def test_oblique_volumes_take_the_closest_axes():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for index in range(6):
        got = values(read_image(nifti(VOLUME, affine), frame=index))
        np.testing.assert_array_equal(got, shown_by_nibabel(VOLUME, affine, index))


def test_a_point_on_the_patients_right_and_front_is_at_the_upper_left():
    volume = np.zeros((9, 9, 3), np.uint8)
    # In the RAS frame the largest x is the patient's right, the largest y the front.
    volume[8, 8, 1] = 255
    image = read_image(nifti(volume))
    assert image.pixels[0, 0] == 1
    assert image.identifiers["frame"] == "1"


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_kinds_and_compression(second, compress):
    data = nifti(VOLUME, second=second, compress=compress)
    assert sniff(data) == "nifti"
    image = read_image(data)
    np.testing.assert_array_equal(values(image), shown_by_nibabel(VOLUME, np.eye(4), 3))
    assert (image.photometric, image.bits, image.identifiers["frame"]) == ("NIfTI", 8, "3")


def test_big_endian():
    image = nibabel.Nifti1Image(VOLUME.astype(">i2"), np.eye(4), header=nibabel.Nifti1Header(endianness=">"))
    data = image.to_bytes()
    assert data[:4] == struct.pack(">i", 348)
    got = read_image(data, frame=2, window=(127.5, 255))
    np.testing.assert_array_equal(values(got), shown_by_nibabel(VOLUME, np.eye(4), 2))


def test_four_dimensions_and_two():
    stack = np.stack([VOLUME, 255 - VOLUME], axis=-1)
    assert image_count(nifti(stack)) == 6
    np.testing.assert_array_equal(values(read_image(nifti(stack))), values(read_image(nifti(VOLUME))))
    flat = nifti(VOLUME[..., 0])
    assert image_count(flat) == 1
    np.testing.assert_array_equal(values(read_image(flat)), VOLUME[::-1, ::-1, 0].T)


def test_scaling_and_windows():
    data = nifti(VOLUME, scl_slope=2.0, scl_inter=-100.0)
    stored = VOLUME[::-1, ::-1, 3].T
    image = read_image(data, window=(50, 200))
    np.testing.assert_allclose(image.pixels, np.clip((stored * 2.0 - 100 - 50) / 200 + 0.5, 0, 1), atol=1e-6)
    assert image.identifiers["window"] == "given 50/200"
    named = read_image(data, window="brain")
    np.testing.assert_allclose(named.pixels, np.clip((stored * 2.0 - 100 - 40) / 80 + 0.5, 0, 1), atol=1e-6)


def test_levels_without_window():
    stored = VOLUME.astype(np.float32) * 10
    image = read_image(nifti(stored))
    plane = stored[::-1, ::-1, 3].T
    low, high = np.percentile(plane, (0.5, 99.5))
    np.testing.assert_allclose(image.pixels, np.clip((plane - low) / (high - low), 0, 1), atol=1e-6)
    assert image.identifiers["window"].startswith("percentiles")
    image = read_image(nifti(stored, cal_min=100.0, cal_max=600.0))
    np.testing.assert_allclose(image.pixels, np.clip((plane - 100) / 500, 0, 1), atol=1e-6)
    assert image.identifiers["window"] == "header 100..600"
    assert read_image(nifti(np.full((3, 3, 3), 7.0, np.float32))).pixels.max() == 0
    rare = np.zeros((30, 30, 1), np.float32)
    rare[3, 3] = 5
    assert read_image(nifti(rare)).pixels.max() == 1


def test_ct_needs_a_window():
    hounsfield = VOLUME.astype(np.int16) - 1000
    with pytest.raises(ImageError, match=r"values down to -\d+ look like CT.*lung"):
        read_image(nifti(hounsfield))
    assert read_image(nifti(hounsfield), window="lung").shape == (5, 4)


def test_frames_out_of_range():
    for bad in (6, -1):
        with pytest.raises(ImageError, match=f"expected a slice from 0 to 5, got {bad}. The volume has 6"):
            read_image(nifti(VOLUME), frame=bad)


def test_spacing_units():
    affine = np.diag([0.001, 0.002, 0.003, 1])
    assert read_image(nifti(VOLUME, affine, xyzt_units=1)).spacing_mm == pytest.approx((2, 1))
    assert read_image(nifti(VOLUME, np.diag([1000, 500, 9, 1]), xyzt_units=3)).spacing_mm == pytest.approx((0.5, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan(bad):
    volume = VOLUME.astype(np.float32)
    volume[1, 1, 3] = bad
    with pytest.raises(ImageError, match="expected finite voxels"):
        read_image(nifti(volume))
    assert read_image(nifti(volume), frame=0).shape == (5, 4)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 0, 5, 6, 1, 1, 1, 1]}, "expected 2 to 7 dimensions of at least 1 voxel"),
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "expected 2 to 7 dimensions"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "expected 2 to 7 dimensions"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "bytes by its header, got at most"),
        ({"datatype": 128}, "expected integer or real voxels"),
        ({"datatype": 32}, "expected integer or real voxels"),
        ({"datatype": 77}, "damaged"),
        ({"vox_offset": 1e30}, "expected voxels to begin within"),
        ({"vox_offset": np.nan}, "expected voxels to begin within"),
        ({"srow_x": [np.nan] * 4}, "expected an invertible affine"),
        ({"srow_x": [0] * 4}, "expected an invertible affine"),
        ({"magic": b"ni1"}, "half of a .hdr/.img pair"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "damaged"),
    ],
)
def test_broken_headers(fields, message, compress):
    with pytest.raises(ImageError, match=message):
        read_image(nifti(VOLUME, compress=compress, **fields))


def test_truncated():
    data = nifti(VOLUME)
    for keep in (len(data) - 1, 400, 349):
        with pytest.raises(ImageError, match="truncated"):
            read_image(data[:keep])
    packed = gzip.compress(data, mtime=0)
    with pytest.raises(ImageError, match="truncated"):
        read_image(packed[:-40])
    with pytest.raises(ImageError, match="truncated"):
        read_image(gzip.compress(data[:-70]), frame=5)


def test_limit_is_read_from_the_header():
    data = nifti(np.zeros((200, 300, 2), np.uint8), compress=True)
    with pytest.raises(ImageTooLarge, match="expected at most 59999 pixels, got a header of 300 x 200"):
        read_image(data, max_pixels=59_999)
    assert read_image(data, max_pixels=60_000).shape == (300, 200)


def test_a_compressed_bomb_is_not_inflated_whole():
    # 128 MiB of zeros: only the wanted plane may be held in memory.
    import tracemalloc

    head = nifti(np.zeros((2, 2, 2), np.uint8), dim=[3, 512, 512, 512, 1, 1, 1, 1])[:352]
    packed = gzip.compress(head + bytes(512 * 512 * 512), compresslevel=1)
    assert len(packed) < 3 << 20
    tracemalloc.start()
    start = time.monotonic()
    assert read_image(packed, frame=100).pixels.max() == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert time.monotonic() - start < 10
