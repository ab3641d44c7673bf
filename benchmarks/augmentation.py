"""Images per second of data augmentation: ours against what you would use instead, side by side.

    pip install --editable '.[bench]'            # the competitors; a missing one is a row "not installed"
    python benchmarks/augmentation.py            # leave the machine alone meanwhile
    python benchmarks/augmentation.py --quick    # does everything run?

Every competitor gets uint8 images and returns float32 batches in 0 to 1 under the same policy (`augment.FULL`: flip,
rotation, shift, zoom, perspective, brightness, contrast, saturation), bilinear, with each image's own random numbers,
drawing included. (Normalization is the network's first layer.) Images are CIFAR-10's, enlarged. Competitors take turns
within each round, so that a noisy moment hits all alike, and what counts is the ratio to ours in the same round. Also
measured: the fraction of a training step that augmentation takes, and how much pixel values differ because ours clamps
colors to the legal range once, at the end, instead of after every adjustment.

Written to benchmarks/results: augmentation.json (every round), augmentation.md (the tables) and augmentation.png; of a
GPU, augmentation_gpu.*.
"""

import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable

import augmentation_report as report
import torch
from common import command_line, machine, save, spread, take_turns
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv
from tqdm import tqdm

from cifar_utils import data, speedrun
from cifar_utils.augment import FULL, Policy, draw, to_float
from cifar_utils.takehome import FusedTransform

SIZES = (32, 64, 96, 128, 224)  # pixels
BATCHES = {"cpu": (256, 1024), "cuda": (1024, 8192, 50_000)}

# The competitors. Each builder gets uint8 images and a batch size, and returns a function that augments all of the
# images once and returns the last batch.


def last(batches: Iterable[Tensor]) -> Tensor:
    """Makes all batches and keeps none but the last, as training does."""
    return deque(batches, maxlen=1)[0]


def ours(images: Tensor, batch: int) -> Callable[[], Tensor]:
    index = torch.arange(len(images), device=images.device).split(batch)
    return lambda: last(FULL(x, i) for x, i in zip(images.split(batch), index))


def take_home(images: Tensor, batch: int) -> Callable[[], Tensor]:
    transform = FusedTransform(FULL)
    return lambda: last(to_float(transform(x)) for x in images.split(batch))


def ours_compiled(images: Tensor, batch: int) -> Callable[[], Tensor]:
    """The same warp and color map behind `torch.compile`; the random numbers are drawn as always."""
    torch.compiler.reset()
    apply = torch.compile(FULL.apply)
    index, size = torch.arange(len(images), device=images.device).split(batch), images.shape[-2:]
    return lambda: last(apply(x, draw(FULL, 0, 0, i, size)) for x, i in zip(images.split(batch), index))


def kornia(compiled: bool) -> Callable:
    def build(images: Tensor, batch: int) -> Callable[[], Tensor]:
        from kornia import augmentation as K

        steps = torch.nn.Sequential(  # kornia's own AugmentationSequential takes as long
            K.RandomHorizontalFlip(p=FULL.flip_p),
            K.RandomAffine(FULL.degrees, FULL.translate, FULL.scale, resample="bilinear", align_corners=False, p=1.0),
            K.RandomPerspective(FULL.distortion_scale, resample="bilinear", align_corners=False, p=FULL.perspective_p),
            K.ColorJitter(FULL.brightness, FULL.contrast, FULL.saturation, 0.0, p=1.0),
        )
        if images.is_cuda:
            for step in steps:  # its default draws on the CPU
                step.set_rng_device_and_dtype(images.device, torch.float32)
        torch.compiler.reset()
        transform = torch.compile(steps) if compiled else steps
        return lambda: last(transform(part / 255) for part in images.split(batch))

    return build


def fastai(images: Tensor, batch: int) -> Callable[[], Tensor]:
    """Its own batch transforms: flip, rotation, zoom and shift in one resampling, the perspective in a second."""
    from fastai.vision import augment as fa

    low, high = FULL.scale
    steps = fa.setup_aug_tfms(
        [
            fa.Flip(p=FULL.flip_p),
            fa.Rotate(FULL.degrees, p=1.0, pad_mode="zeros"),
            fa.Zoom(low, high, p=1.0, pad_mode="zeros"),
            fa.Warp(FULL.distortion_scale, p=FULL.perspective_p, pad_mode="zeros"),
            fa.Brightness(FULL.brightness, p=1.0),
            fa.Contrast(FULL.contrast, p=1.0),
            fa.Saturation(FULL.saturation, p=1.0),
        ]
    )

    def transform(part: Tensor) -> Tensor:
        x = fa.TensorImage(part.float() / 255)
        for step in steps:
            x = step(x, split_idx=0)
        return x.as_subclass(Tensor)

    return lambda: last(transform(part) for part in images.split(batch))


def albumentations() -> Callable:
    import albumentations as A

    shift = {axis: (-t, t) for axis, t in zip("xy", FULL.translate)}
    steps = [
        A.HorizontalFlip(p=FULL.flip_p),
        A.Affine(FULL.scale, shift, rotate=(-FULL.degrees, FULL.degrees), keep_ratio=True, p=1),
        A.Perspective((0, FULL.distortion_scale / 2), p=FULL.perspective_p),
        A.ColorJitter(FULL.brightness, FULL.contrast, FULL.saturation, hue=0, p=1),
    ]
    return A.Compose(steps)


class OneByOne(Dataset):
    """The usual Dataset: uint8 image in, augmented uint8 tensor out."""

    def __init__(self, images: Tensor, kind: str) -> None:
        self.kind, self.images = kind, images
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = albumentations() if kind == "albumentations" else FULL.to_torchvision()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        if self.kind == "albumentations":
            return torch.from_numpy(self.transform(image=self.pixels[i])["image"]).permute(2, 0, 1)
        if self.kind == "torchvision PIL":
            return tv.pil_to_tensor(self.transform(Image.fromarray(self.pixels[i])))
        return self.transform(self.images[i])


def one_by_one(kind: str, workers: int) -> Callable:
    def build(images: Tensor, batch: int) -> Callable[[], Tensor]:
        size = min(batch, len(images) // max(1, workers))  # something to do for every worker
        loader = DataLoader(OneByOne(images, kind), size, num_workers=workers, persistent_workers=workers > 0)
        return lambda: last(to_float(x) for x in loader)

    return build


BATCHED = {
    "ours": ours, "ours, FusedTransform": take_home, "ours, torch.compile": ours_compiled,
    "kornia": kornia(compiled=False), "kornia, torch.compile": kornia(compiled=True), "fastai": fastai,
}  # fmt: skip
KINDS = ("torchvision PIL", "torchvision tensor", "albumentations")
SINGLE = {f"{kind}, {workers} workers": one_by_one(kind, workers) for kind in KINDS for workers in (0, 2)}

# Measuring


def enlarged(train: data.Dataset, count: int, size: int, device: torch.device) -> Tensor:
    """[count, 3, size, size] uint8: the training images, again and again."""
    images = train.images.repeat(-(-count // len(train)), 1, 1, 1)[:count].to(device)
    return images if size == train.size else torch.cat([tv.resize(part, [size, size]) for part in images.split(256)])


def compare(train: data.Dataset, size: int, batch: int, device: torch.device, args) -> list[dict]:
    """One row per competitor; a round has about as many pixels at every size."""
    many = max(batch, args.images * train.size**2 // size**2)
    images = enlarged(train, many, size, device)
    title, runs, rows = f"{device.type}, {size}x{size}, batch {batch:,}", {}, []
    for name, build in (BATCHED | SINGLE if device.type == "cpu" else BATCHED).items():
        part = images[: max(64, args.single_images * train.size**2 // size**2)] if name in SINGLE else images
        row = {"device": device.type, "size": size, "batch": batch, "name": name, "images_a_round": len(part)}
        tqdm.write(f"{title}: {name} warms up", file=sys.stderr)
        try:
            run = build(part, batch)
            out = last(run() for _ in range(2))
            assert out.dtype == torch.float32 and out.shape[1:] == (3, size, size) and 0 < out.mean() < 1, "no images"
            runs[name] = run
        except ModuleNotFoundError as error:
            row["problem"] = f"not installed ({error.name})"
        except Exception as error:  # whatever a competitor raises, the others go on
            row["problem"] = f"fails: {type(error).__name__}: {error}".split("\n")[0][:200].replace("|", "/")
        rows.append(row)
    seconds = take_turns(runs, args.rounds, title, device)
    for row in rows:
        if row["name"] in seconds:
            row["images_a_second"] = spread([row["images_a_round"] / s for s in seconds[row["name"]]])
            pairs = zip(row["images_a_second"]["rounds"], seconds["ours"])
            row["ours_is_faster_by"] = spread([len(images) / s / rate for rate, s in pairs])
    return rows


def share_of_a_step(train: data.Dataset, device: torch.device, rounds: int) -> dict:
    """Milliseconds of augmentation and of forward, backward and optimizer step, and the former's share of both."""
    model = speedrun.network(train).to(device).train()
    optimizer = speedrun.recipe(model, train)["optimizer"]
    images, labels = (x[:256].to(device) for x in (train.images, train.labels))
    batch = to_float(images)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch), labels).backward()
        optimizer.step()

    runs = {"augmentation": ours(images, len(images)), "step": step}
    take_turns(runs, 2, "training step, warming up", device)
    seconds = take_turns(runs, 5 * rounds, "training step", device)
    share = spread([a / (a + s) for a, s in zip(seconds["augmentation"], seconds["step"])])
    return {"device": device.type, "share": share, **{k: 1000 * statistics.median(s) for k, s in seconds.items()}}


def clamping_once(train: data.Dataset) -> dict[str, float]:
    """Absolute differences in gray levels to torchvision's ColorJitter: same factors, its random order, its clamps."""
    policy = Policy(brightness=FULL.brightness, contrast=FULL.contrast, saturation=FULL.saturation)
    p = draw(policy, 0, 0, torch.arange(len(train)))
    difference = policy.apply(train.images, p)
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    factors = torch.stack([p.brightness, p.contrast, p.saturation], 1).tolist()
    torch.manual_seed(0)
    for i, image in enumerate(tqdm(train.images / 255, desc="clamping")):
        for k in torch.randperm(3).tolist():
            image = adjust[k](image, factors[i][k])
        difference[i] = (difference[i] - image).abs() * 255
    above = (difference > 1).float().mean().item()
    return {"images": len(train), "mean": difference.mean().item(), "max": difference.max().item(), "above 1": above}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each competitor (default: 9)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the main process (default: 2)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides of the images in pixels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="3 rounds of few images of two sizes")
    args = parser.parse_args()
    args.rounds = 3 if args.quick else max(2, args.rounds)
    args.sizes = args.sizes[:2] if args.quick else args.sizes
    args.images, args.single_images = (2048, 256) if args.quick else (8192, 2048)  # a round: batched, one by one
    torch.set_num_threads(args.threads)
    train, _ = data.split(data.cifar10(sample=True))
    device, competitors = torch.device(args.device), ("kornia", "fastai", "albumentations")
    results = {"machine": machine(args.threads, *competitors), "rounds": args.rounds, "rows": []}
    for size in args.sizes:
        for batch in BATCHES[device.type]:
            results["rows"] += compare(train, size, batch, device, args)
    results["steps"] = [share_of_a_step(train, device, args.rounds)]
    results["clamping"] = clamping_once(train)
    save(args.output, "augmentation" + "_gpu" * (device.type == "cuda"), results, report.markdown(results), report.plot)


if __name__ == "__main__":
    main()
