"""Rotation, shear, perspective, mirror and crop: where pixels go, and what training draws."""

from pathlib import Path

import albumentations
import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import ndimage, stats

from invariance.errors import UserError
from invariance.transforms import build
from invariance.transforms.crop import Crop
from invariance.transforms.mirror import Mirror
from invariance.transforms.perspective import UNIT_SQUARE, Perspective, square_to
from invariance.transforms.rotation import Rotation
from invariance.transforms.shear import Shear

H, W = 31, 45


def draw(transform, n, seed=0):
    return transform.sample(n, torch.Generator().manual_seed(seed))


@pytest.fixture
def family():
    """Families as their files in conf/transform describe them, by name."""
    folder = Path(__file__).parents[1] / "conf" / "transform"

    def built(name, trained=None, joint=False):
        config = OmegaConf.create({"range": trained, "transform": OmegaConf.load(folder / f"{name}.yaml")})
        settings = OmegaConf.to_container(config, resolve=True)["transform"]
        return build({**settings, **settings["joint"]} if joint else settings)

    return built


def dot(right, down, height=H, width=W):
    """An image with one bright pixel at (right, down) from its centre."""
    x = torch.zeros(1, 1, height, width, dtype=torch.float64)
    x[0, 0, (height - 1) // 2 + down, (width - 1) // 2 + right] = 255
    return x


def centroid(x):
    """Centre of mass (right, down) about the centre, and mass in full pixels."""
    mass = x[0, 0].numpy()
    down, right = ndimage.center_of_mass(mass)
    return right - (x.shape[3] - 1) / 2, down - (x.shape[2] - 1) / 2, mass.sum() / 255


def smooth_image(channels=3, height=H, width=W):
    noise = np.random.default_rng(0).uniform(0, 255, (1, channels, height, width))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 2, 2)))


def angle(value, **more):
    return {"angle": torch.tensor([float(value)], dtype=torch.float64), **more}


def test_positive_rotation_is_counter_clockwise_as_seen():
    right, down, _ = centroid(Rotation().apply(dot(10, 0), angle(90)))
    assert (right, down) == pytest.approx((0, -10), abs=1e-6)
    right, down, _ = centroid(Rotation().apply(dot(12, 0), angle(30)))
    assert (right, down) == pytest.approx((12 * np.cos(np.pi / 6), -6), abs=0.2)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns_are_exact_on_squares_of_odd_and_even_side(quarter):
    for side in (16, 17):
        x = torch.rand(2, 3, side, side, dtype=torch.float64) * 255
        turned = Rotation().apply(x, angle(90 * quarter if quarter < 3 else -90))
        assert torch.allclose(turned, torch.rot90(x, quarter, (2, 3)), atol=1e-6)


@pytest.mark.parametrize("value", [-45, -2.5, 20, 137])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_is_opencvs(value, channels):
    x = smooth_image(channels)
    matrix = cv2.getRotationMatrix2D(((W - 1) / 2, (H - 1) / 2), value, 1)
    expected = cv2.warpAffine(x[0].permute(1, 2, 0).numpy().astype(np.float32), matrix, (W, H)).reshape(H, W, channels)
    ours = Rotation().apply(x, angle(value))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() < 6 and np.abs(ours - expected).mean() < 0.4


def test_rotation_draws_uniform_angles():
    angles = draw(Rotation(range=20), 4000)["angle"].numpy()
    assert stats.kstest(angles, stats.uniform(-20, 40).cdf).pvalue > 1e-3


def theta(degrees, vertical=0):
    return {"theta": torch.tensor([degrees], dtype=torch.float64), "vertical": torch.tensor([vertical])}


def test_positive_horizontal_shear_moves_the_top_to_the_left():
    right, down, _ = centroid(Shear().apply(dot(0, -10), theta(45)))
    assert (right, down) == pytest.approx((-10, -10), abs=1e-6)
    right, down, _ = centroid(Shear().apply(dot(0, 8), theta(20)))
    assert (right, down) == pytest.approx((8 * np.tan(np.deg2rad(20)), 8), abs=1e-6)


def test_positive_vertical_shear_moves_the_right_side_down():
    right, down, _ = centroid(Shear().apply(dot(10, 0), theta(45, 1)))
    assert (right, down) == pytest.approx((10, 10), abs=1e-6)


def test_shears_sign_can_be_turned():
    left, right = Shear(angles=[-20, 10], vertical=[5]), Shear(angles=[-20, 10], vertical=[5], positive="right")
    x = smooth_image(1)
    assert [(p.label, p.value) for p in left.grid()] == [(p.label, p.value) for p in right.grid()]
    for one, other in zip(left.grid(), right.grid(), strict=True):
        turned = {**other.params, "theta": -other.params["theta"]}
        assert torch.equal(left.apply(x, one.params), right.apply(x, turned))
    with pytest.raises(UserError, match="left, right"):
        Shear(positive="up")


@pytest.mark.parametrize("vertical", [0, 1])
def test_shear_is_scipys(vertical):
    x = smooth_image(2)
    slope = np.tan(np.deg2rad(25))
    # array order: down, right
    backward = np.array([[1, -slope], [0, 1]]) if vertical else np.array([[1, 0], [-slope, 1]])
    centre = np.array([(H - 1) / 2, (W - 1) / 2])
    expected = [
        ndimage.affine_transform(c, backward, centre - backward @ centre, order=1, mode="grid-constant", cval=0)
        for c in x[0].numpy()
    ]
    ours = Shear().apply(x, theta(25, vertical))[0].numpy()
    assert np.abs(ours - np.stack(expected)).max() < 1e-9


def test_shear_draws_angles_and_both_ways():
    params = draw(Shear(range=15), 4000)
    assert stats.kstest(params["theta"].numpy(), stats.uniform(-15, 30).cdf).pvalue > 1e-3
    assert stats.binomtest(int(params["vertical"].sum()), 4000).pvalue > 1e-3
    steep = params["theta"][params["vertical"] == 1].numpy()
    assert stats.kstest(steep, stats.uniform(-15, 30).cdf).pvalue > 1e-3


def worst_corner(transform, params, side=227):
    """How far the corner that moves most moves, in pixels, (n,)."""
    forward = torch.linalg.inv(transform.backward(params, (side, side)))
    end = (side - 1) / 2
    corners = torch.tensor([[-end, -end, 1], [end, -end, 1], [end, end, 1], [-end, end, 1]], dtype=torch.float64)
    moved = corners @ forward.mT
    return ((moved[..., :2] / moved[..., 2:] - corners[:, :2]).norm(dim=2)).amax(dim=1)


@pytest.mark.parametrize(("trained", "median"), [(1, 6.5), (2, 13), (3, 19), (4, 26)])
def test_perspective_is_as_strong_as_the_released_code(trained, median):
    transform = Perspective(range=trained)
    assert worst_corner(transform, draw(transform, 8000)).median().item() == pytest.approx(median, rel=0.07)


@pytest.mark.parametrize(("k", "median"), [(1, 5), (10, 32)])
def test_measured_perspectives_are_as_strong_as_the_released_code(k, median):
    corners = torch.cat([Perspective(draws=k, grid_seed=seed).grid()[k].params["corners"] for seed in range(800)])
    assert ((5 * corners.abs()).floor() == k).all()
    assert worst_corner(Perspective(), {"corners": corners}).median().item() == pytest.approx(median, rel=0.1)


def test_the_measured_perspectives_increase(family):
    """The seed in the family's file is one whose draws grow in displacement too, near the median draw of each k."""
    transform = family("perspective")
    corners = torch.cat([point.params["corners"] for point in transform.grid()])
    moves = worst_corner(transform, {"corners": corners})
    assert moves[0] == 0 and (moves.diff() > 0).all()
    medians = torch.tensor([5, 7.7, 10.3, 13.5, 15.6, 19.1, 22.7, 25.9, 28.6, 32.6], dtype=torch.float64)
    assert (moves[1:] / medians).log().abs().max() < 0.4


def test_perspective_of_the_image_square_moves_corners_by_under_two_pixels():
    transform = Perspective(range=4, square="image")
    moves = worst_corner(transform, draw(transform, 2000))
    assert 0.5 < moves.median().item() < 2


def test_perspective_is_relative_to_the_frame():
    """The same homography at twice the size moves corners twice as far; unscaled, it grows faster than that."""
    for square in ("pixel", "image"):
        transform = Perspective(range=2, square=square)
        params = draw(transform, 50)
        # corners of the outline, not of pixel centres, correspond: compare at a size where that matters little
        small, large = (worst_corner(transform, params, side) for side in (454, 908))
        assert torch.allclose(large / small, torch.full_like(small, 2), rtol=0.01)
    # a place p of the 227-pixel image is, pixel centres apart, (p + ½) 2 − ½ of the one of 454
    params = {"corners": draw(Perspective(range=4), 1)["corners"]}
    small, large = (Perspective().backward(params, (side, side))[0] for side in (227, 454))
    place = torch.tensor([30.0, -80.0, 1.0], dtype=torch.float64)
    double = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.allclose(
        (large @ (place * double))[:2] / (large @ (place * double))[2], 2 * (small @ place)[:2] / (small @ place)[2]
    )
    params = {"corners": draw(Perspective(range=1), 50)["corners"] * 0.1}
    fixed = Perspective(range=1, scale_lengths=False)
    growth = worst_corner(fixed, params, 454) / worst_corner(fixed, params, 227)
    assert growth.median() > 3


def test_perspective_takes_the_square_to_its_corners():
    corners = UNIT_SQUARE + 0.1 * torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forward = square_to(corners)
    moved = torch.cat([UNIT_SQUARE, torch.ones(4, 1, dtype=torch.float64)], dim=1) @ forward.mT
    assert torch.allclose(moved[..., :2] / moved[..., 2:], corners)
    square = UNIT_SQUARE.numpy().astype(np.float32)
    for n in range(6):
        expected = cv2.getPerspectiveTransform(square, corners[n].numpy().astype(np.float32))
        assert np.abs(forward[n].numpy() - expected).max() < 1e-5


def test_perspective_is_opencvs_on_the_whole_image():
    """The square is the top-left pixel of a 227-pixel image, from pixel centre to pixel centre."""
    x = smooth_image(3, 227, 301)
    params = {"corners": draw(Perspective(range=3), 4)["corners"][2:3]}
    forward = square_to(UNIT_SQUARE + 1e-4 * params["corners"])[0].numpy()
    expected = cv2.warpPerspective(x[0].permute(1, 2, 0).numpy().astype(np.float32), forward, (301, 227))
    ours = Perspective().apply(x, params)[0].permute(1, 2, 0).numpy()
    assert worst_corner(Perspective(), params).item() > 3
    assert np.abs(ours - expected).mean() < 0.4


def test_perspective_draws_a_mixture_of_normals():
    transform = Perspective(range=4)
    uniforms = torch.rand(4000, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    corners = transform.params_of(uniforms)["corners"]
    standard = corners.flatten(1) / (4 * uniforms[:, :1])
    assert stats.kstest(standard.flatten().numpy(), "norm").pvalue > 1e-3
    assert (standard.T @ standard / 4000 - torch.eye(8)).abs().max() < 0.1


def test_extreme_perspectives_give_numbers():
    transform = Perspective(range=100)
    x = torch.full((64, 1, 48, 64), 255.0)
    out = transform.apply(x, draw(transform, 64))
    assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 255


def test_mirror_names_mean_what_they_say():
    x = torch.rand(1, 3, 5, 8) * 255
    points = {point.label: Mirror().apply(x, point.params) for point in Mirror().grid()}
    assert torch.equal(points["horizontal"][..., 0], x[..., 7])
    assert torch.equal(points["vertical"][..., 0, :], x[..., 4, :])
    assert torch.equal(points["both"][..., 0, 0], x[..., 4, 7])
    image = x[0].permute(1, 2, 0).numpy()
    for name, reference in (("horizontal", albumentations.HorizontalFlip), ("vertical", albumentations.VerticalFlip)):
        assert np.array_equal(points[name][0].permute(1, 2, 0).numpy(), reference(p=1)(image=image)["image"])


@pytest.mark.parametrize(("trained", "way"), [("horizontal", (1, 0)), ("vertical", (0, 1)), ("both", (1, 1))])
def test_mirror_flips_half_of_the_images_independently(trained, way):
    params = draw(Mirror(range=trained), 4000)
    flips = torch.stack([params["horizontal"], params["vertical"]], dim=1)
    for axis in (0, 1):
        count = int(flips[:, axis].sum())
        assert stats.binomtest(count, 4000).pvalue > 1e-3 if way[axis] else count == 0
    if trained == "both":
        table = np.histogram2d(*flips.T.numpy(), bins=2)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3
    covered = [point.covered for point in Mirror(range=trained).grid()]
    assert covered == [True, way[0] == 1, way[1] == 1, way == (1, 1)]


def test_mirror_of_a_batch_flips_each_image_its_own_way():
    x = torch.rand(4, 1, 3, 5)
    params = {"horizontal": torch.tensor([0, 1, 0, 1]), "vertical": torch.tensor([0, 0, 1, 1])}
    out = Mirror().apply(x, params)
    expected = [x[0], x[1].flip(2), x[2].flip(1), x[3].flip(1, 2)]
    assert torch.equal(out, torch.stack(expected))


def ramp(height, width):
    """An image whose two channels say where a pixel was: row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns])[None].float()


@pytest.mark.parametrize("side", [240, 256, 288, 320])
def test_crop_measures_evenly_spaced_windows_in_scan_order(side):
    transform = Crop(range=side, windows=5)
    size = transform.source_size(227)
    assert size == side
    starts = [transform.apply(ramp(size, size), point.params)[0, :, 0, 0].tolist() for point in transform.grid()]
    spaced = [round(k * (side - 227) / 4 + (1e-9 if k < 2 else 0)) for k in range(5)]
    rows, columns = sorted({s[0] for s in starts}), sorted({s[1] for s in starts})
    assert starts == [[r, c] for r in rows for c in columns]
    assert rows == columns and rows[0] == 0 and rows[-1] == side - 227
    assert all(abs(a - b) <= 1 for a, b in zip(rows, spaced, strict=True))
    assert rows[1] == side - 227 - rows[3]


@pytest.mark.parametrize("slack", range(9))
def test_crop_windows_lie_symmetrically_whatever_the_slack(slack):
    """Slacks that four steps do not divide arise at sizes other than the paper's."""
    transform = Crop(range=256, windows=5)
    size = next(size for size in range(1, 300) if size - round(size * 227 / 256) == slack)
    starts = [transform.apply(ramp(size, size), point.params)[0, 1, 0, 0].item() for point in transform.grid()[:5]]
    assert starts[0] == 0 and starts[4] == slack and starts[1] + starts[3] == slack
    assert all(abs(start - k * slack / 4) < 1 for k, start in enumerate(starts))


def test_crop_labels_and_reference():
    points = Crop(range=256, windows=5).grid()
    assert [point.label for point in points] == [str(k) if k != 13 else "untouched" for k in range(1, 26)]
    assert [point.value for point in points] == list(range(1, 26))
    assert all(point.covered for point in points)
    assert [point.covered for point in Crop(windows=5).grid()] == [k == 13 for k in range(1, 26)]


@pytest.mark.parametrize("size", [28, 32, 56, 64, 227, 384])
@pytest.mark.parametrize("side", [228, 240, 256, 288, 320, 2270])
def test_crop_of_the_source_size_gives_the_input_size(size, side):
    transform = Crop(range=side)
    source = transform.source_size(size)
    assert source == round(side * size / 227)
    out = transform.apply(torch.zeros(2, 1, source, source), draw(transform, 2))
    assert out.shape == (2, 1, size, size)


def test_crop_draws_every_window_equally_often():
    transform = Crop(range=240)
    x = ramp(91, 91)
    places = draw(transform, 4000)["place"]
    starts = torch.stack([transform.apply(x, {"place": place[None]})[0, :, 0, 0] for place in places])
    for axis in (0, 1):
        counts = np.bincount(starts[:, axis].long().numpy())
        assert len(counts) == 91 - 86 + 1 and stats.chisquare(counts).pvalue > 1e-3


def test_crop_of_a_batch_and_of_non_square_images():
    transform = Crop(range=320)
    x = torch.rand(3, 2, 80, 110)
    params = draw(transform, 3)
    out = transform.apply(x, params)
    height, width = round(80 * 227 / 320), round(110 * 227 / 320)
    assert out.shape == (3, 2, height, width)
    for n, (down, right) in enumerate(params["place"].tolist()):
        top, left = int(down * (80 - height + 1)), int(right * (110 - width + 1))
        assert torch.equal(out[n], x[n, :, top : top + height, left : left + width])


def test_crop_without_a_range_says_so():
    for call in (lambda t: t.source_size(227), lambda t: t.apply(torch.zeros(1, 1, 9, 9), t.grid()[0].params)):
        with pytest.raises(UserError, match="range"):
            call(Crop(windows=3))


def test_crop_measures_the_corners_of_non_square_images():
    transform = Crop(range=320, corners=True)
    starts = {p.label: transform.apply(ramp(80, 110), p.params)[0, :, 0, 0].tolist() for p in transform.grid()}
    down, right = 80 - round(80 * 227 / 320), 110 - round(110 * 227 / 320)
    assert starts["upper left"] == [0, 0] and starts["upper right"] == [0, right]
    assert starts["lower left"] == [down, 0] and starts["lower right"] == [down, right]
    assert abs(starts["untouched"][0] - down / 2) < 1 and abs(starts["untouched"][1] - right / 2) < 1
    with pytest.raises(UserError, match="corners"):
        Crop(range=320, corners="yes")


def test_measured_vertical_shears_are_those_of_training():
    transform = Shear(range=20, angles=[-10], vertical=[15, -5])
    points = {point.label: point for point in transform.grid()}
    assert list(points) == ["-10", "untouched", "vertical -5", "vertical 15"]
    assert points["vertical 15"].covered and not Shear(range=10, vertical=[15]).grid()[1].covered
    x = smooth_image()
    assert torch.equal(transform.apply(x, points["vertical 15"].params), transform.apply(x, theta(15.0, 1)))


def test_given_perspectives_move_their_corners_by_that():
    moves = [[0.5, -0.5, 0.4, 0.3, -0.2, 0.1, 0.6, 0], [-3, 1, 2, -2, 1, 3, -1, 2]]
    transform = Perspective(range=1, moves=moves)
    points = transform.grid()
    assert [point.label for point in points] == ["untouched", "move 1", "move 2"] and transform.unit == "move"
    assert [point.covered for point in points] == [True, True, False]
    for point, move in zip(points[1:], moves, strict=True):
        assert torch.equal(point.params["corners"], torch.tensor(move, dtype=torch.float64).view(1, 4, 2))
    with pytest.raises(UserError, match="two grids"):
        Perspective(draws=3, moves=moves)


@pytest.mark.parametrize(
    "moves",
    [1, "1", [1], [[1, 2]], [[0] * 8], [[1] * 7 + [101]], [[1] * 7 + [True]], [[float("nan")] * 8], [[1] * 8] * 2],
)
def test_moves_that_are_none_are_one_line(moves):
    with pytest.raises(UserError, match="perspective: .*move") as caught:
        Perspective(moves=moves)
    assert "\n" not in str(caught.value)


def test_the_joint_perspectives_are_the_released_ones(family):
    """Which of the eight numbers belongs to which corner is decided by how far the worst corner then moves."""
    moves = family("perspective", joint=True).grid()
    corners = torch.cat([point.params["corners"] for point in moves[1:]])
    expected = torch.tensor([13.7, 20.8, 18.9, 16.0, 51.7], dtype=torch.float64)
    assert torch.allclose(worst_corner(Perspective(), {"corners": corners}), expected, atol=0.05)


def test_perspectives_places_are_those_of_float64():
    """The image's corners move farthest, and are divided by the smallest depth."""
    transform, params = Perspective(range=4), draw(Perspective(range=4), 20)
    ramps = torch.stack(torch.meshgrid(*[torch.arange(227.0)] * 2, indexing="ij")).expand(20, -1, -1, -1)
    single = transform.apply(ramps, {"corners": params["corners"].float()})
    double = transform.apply(ramps.double(), params)
    inside = transform.apply(torch.ones_like(ramps).double(), params) > 1 - 1e-9
    # corners kept in float32 move by 1e-7 of their own move; places themselves are within 3e-5 pixels
    assert (single - double).abs()[inside].max() < 1e-3
