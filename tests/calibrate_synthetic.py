"""How hard the synthetic cohort is, measured by small models of its own.

    OMP_NUM_THREADS=1 python tests/calibrate_synthetic.py --seeds 0 1 2

It fixed the difficulty of `stray.cohort.synthetic` before any method of stray was compared on it, and repeats that
measurement. It uses nothing of stray but the cohort: a gene VAE with the patient in its decoder, a ResNet-18 and
InfoNCE, each in its plainest form.

Balanced accuracy over the five classes on a patient that no step has seen, mean over the held-out patients P5 and P6:
    within      raw log counts, logistic regression, random split inside each patient (mean over all patients)
    raw         raw log counts, logistic regression
    vae         codes of the gene VAE, logistic regression
    vae-seen    the same, the tested patient among those that the VAE was fitted on (mean over training patients)
    untrained   ResNet-18 with random weights, logistic regression on its features
    supervised  ResNet-18 trained on the labels
    clip-mlp    ResNet-18 trained by InfoNCE with an MLP on log counts, logistic regression on its features
    clip-vae    ResNet-18 trained by InfoNCE with frozen codes of the gene VAE, logistic regression on its features
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from stray.cohort.readers.synthetic import SyntheticReader
from stray.config.ingest import SyntheticSourceConfig

METHODS = ("within", "raw", "vae", "vae-seen", "untrained", "supervised", "clip-mlp", "clip-vae")


class Cohort:
    """Counts (S, G), patches (S, px, px, 3) uint8, labels and patients of all spots."""

    def __init__(self, seed: int, patch_px: int, patch_um: float) -> None:
        counts, patches, labels, patients = [], [], [], []
        reader = SyntheticReader(SyntheticSourceConfig(seed=seed))
        for handle in reader.sections():
            section = reader.read(handle.name)
            assert section.counts is not None
            assert section.image is not None
            assert section.labels is not None
            counts.append(section.counts.toarray())
            labels.append(section.labels.astype(str))
            patients.append(np.full(len(section.spots), handle.patient))
            picture, half = section.image.load(), patch_um / 2 / section.microns_per_pixel
            for x, y in section.xy_px:
                box = (x - half, y - half, x + half, y + half)
                patches.append(np.asarray(picture.resize((patch_px, patch_px), Image.Resampling.BILINEAR, box=box)))
        self.counts = np.concatenate(counts)
        self.patches = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).contiguous()
        self.labels = np.concatenate(labels)
        self.patients = np.concatenate(patients)


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, strength: float) -> float:
    """Balanced accuracy of a logistic regression on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    return float(balanced_accuracy_score(truth, model.fit(train, labels).predict(test)))


class GeneVae(nn.Module):
    """scVI in its plainest form: one hidden layer each way, negative binomial, the patient in the decoder only."""

    def __init__(self, n_genes: int, n_patients: int, n_latent: int = 10, n_hidden: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, n_hidden), nn.BatchNorm1d(n_hidden, 0.001, 0.1), nn.ReLU(), nn.Dropout(0.1)
        )
        self.mean, self.log_variance = nn.Linear(n_hidden, n_latent), nn.Linear(n_hidden, n_latent)
        self.decoder = nn.Sequential(
            nn.Linear(n_latent + n_patients, n_hidden), nn.BatchNorm1d(n_hidden, 0.001, 0.1), nn.ReLU()
        )
        self.out = nn.Linear(n_hidden + n_patients, n_genes)
        self.log_theta = nn.Parameter(torch.randn(n_genes))

    def loss(self, counts: Tensor, patient: Tensor, kl_weight: float) -> Tensor:
        hidden = self.encoder(torch.log1p(counts))
        mean, variance = self.mean(hidden), self.log_variance(hidden).exp() + 1e-4
        z = mean + variance.sqrt() * torch.randn_like(mean)
        hidden = torch.cat([self.decoder(torch.cat([z, patient], 1)), patient], 1)
        mu = counts.sum(1, keepdim=True) * self.out(hidden).softmax(1)
        theta, e = self.log_theta.exp(), 1e-8
        total = (theta + mu + e).log()
        log_p = theta * ((theta + e).log() - total) + counts * ((mu + e).log() - total)
        log_p = log_p + torch.lgamma(counts + theta) - torch.lgamma(theta) - torch.lgamma(counts + 1)
        kl = 0.5 * (mean**2 + variance - variance.log() - 1).sum(1)
        return (-log_p.sum(1) + kl_weight * kl).mean()


def gene_codes(cohort: Cohort, train: np.ndarray, args: argparse.Namespace, seed: int) -> np.ndarray:
    """Posterior means of all spots, from a VAE fitted on the training patients, (S, 10)."""
    torch.manual_seed(seed)
    counts = torch.from_numpy(cohort.counts[train]).float()
    names, index = np.unique(cohort.patients[train], return_inverse=True)
    patient = F.one_hot(torch.from_numpy(index)).float()
    model = GeneVae(counts.shape[1], len(names))
    optimiser = torch.optim.Adam(model.parameters(), lr=args.gene_lr, eps=0.01, weight_decay=1e-6)
    for epoch in range(args.gene_epochs):
        weight = args.kl * min(1.0, (epoch + 1) / (0.5 * args.gene_epochs))
        for rows in torch.randperm(len(counts)).split(128):
            if len(rows) > 8:
                optimiser.zero_grad()
                model.loss(counts[rows], patient[rows], weight).backward()
                optimiser.step()
    model.eval()
    with torch.no_grad():
        return model.mean(model.encoder(torch.log1p(torch.from_numpy(cohort.counts).float()))).numpy()


def encoder() -> nn.Module:
    """ResNet-18 from random weights, without its classifier."""
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network.to(memory_format=torch.channels_last)


def augmented(patches: Tensor, strength: float) -> Tensor:
    """Flips, right-angle turns and colour jitter, drawn for each patch; (N, 3, px, px) float, about -2 to 2."""
    n = len(patches)
    images = patches.float() / 255.0
    flip = torch.rand(n) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    turns = torch.randint(0, 4, (n,))
    images = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])
    factor = 1.0 + strength * (2 * torch.rand(4, n, 1, 1, 1) - 1)
    images = images * factor[0]
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (images - middle) * factor[1] + middle
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * factor[2] + grey
    # Hue: the colour circle turned about the grey axis (Rodrigues' formula).
    angle = (2 * torch.rand(n) - 1) * hue_turns(strength) * 2 * math.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = cos * torch.eye(3) + sin * cross + (1 - cos) * torch.full((3, 3), 1 / 3)
    return (torch.einsum("nij,njhw->nihw", turn, images) - 0.7) / 0.25


def hue_turns(strength: float) -> float:
    """Hue moves a quarter as far as the other factors, in turns."""
    return strength / 4


def features(network: nn.Module, patches: Tensor, bf16: bool) -> np.ndarray:
    """Features of patches as they are, (N, 512)."""
    network.eval()
    out = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for chunk in patches.split(256):
            images = ((chunk.float() / 255.0 - 0.7) / 0.25).contiguous(memory_format=torch.channels_last)
            out.append(network(images).float())
    return torch.cat(out).numpy()


def info_nce(images: Tensor, genes: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of paired codes (N, D)."""
    logits = log_scale.exp().clamp(max=100) * F.normalize(images, dim=1) @ F.normalize(genes, dim=1).T
    target = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def train_encoder(
    cohort: Cohort, train: np.ndarray, method: str, codes: np.ndarray | None, args: argparse.Namespace, seed: int
) -> tuple[nn.Module, nn.Module]:
    """The image encoder of one method, and its classifier (of `supervised`) or projection."""
    torch.manual_seed(seed)
    network = encoder()
    patches = cohort.patches[train]
    if method == "supervised":
        head: nn.Module = nn.Linear(512, 5)
        target = torch.from_numpy(np.unique(cohort.labels[train], return_inverse=True)[1])
        tower: nn.Module = nn.Identity()
    else:
        head = nn.Linear(512, args.projection)
        values = codes[train] if codes is not None else np.log1p(cohort.counts[train])
        target = torch.from_numpy((values - values.mean(0)) / (values.std(0) + 1e-6)).float()
        n_in = target.shape[1]
        tower = nn.Linear(n_in, args.projection)
        if codes is None:
            tower = nn.Sequential(
                nn.Linear(n_in, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, args.projection)
            )
    log_scale = nn.Parameter(torch.tensor(math.log(1 / args.temperature)))
    parameters = [*network.parameters(), *head.parameters(), *tower.parameters(), log_scale]
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=args.weight_decay)
    epochs = args.supervised_epochs if method == "supervised" else args.epochs
    steps = epochs * (len(patches) // args.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(patches)).split(args.batch):
            if len(rows) < args.batch:
                continue
            images = augmented(patches[rows], args.jitter).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                hidden = network(images).float()
            out = head(hidden)
            loss = (
                F.cross_entropy(out, target[rows])
                if method == "supervised"
                else info_nce(out, tower(target[rows]), log_scale)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network, head


def within(cohort: Cohort) -> float:
    """Balanced accuracy of raw log counts inside each patient, mean over patients."""
    scores = []
    for patient in np.unique(cohort.patients):
        rows = cohort.patients == patient
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        guess = cross_val_predict(model, np.log1p(cohort.counts[rows]), cohort.labels[rows], cv=folds)
        scores.append(balanced_accuracy_score(cohort.labels[rows], guess))
    return float(np.mean(scores))


def measure(cohort: Cohort, held_out: str, method: str, args: argparse.Namespace, seed: int) -> float:
    """Balanced accuracy of one method on one held-out patient."""
    if method == "within":
        return within(cohort)
    test = cohort.patients == held_out
    train = ~test
    labels, truth = cohort.labels[train], cohort.labels[test]
    if method == "raw":
        logs = np.log1p(cohort.counts)
        return probe(logs[train], labels, logs[test], truth, 0.01)
    codes = gene_codes(cohort, train, args, seed) if method in ("vae", "vae-seen", "clip-vae") else None
    if method == "vae":
        assert codes is not None
        return probe(codes[train], labels, codes[test], truth, 1.0)
    if method == "vae-seen":
        assert codes is not None
        scores = []
        for patient in np.unique(cohort.patients[train]):
            seen = cohort.patients == patient
            rest = train & ~seen
            scores.append(probe(codes[rest], cohort.labels[rest], codes[seen], cohort.labels[seen], 1.0))
        return float(np.mean(scores))
    if method == "untrained":
        torch.manual_seed(seed)
        network = encoder()
    else:
        network, head = train_encoder(cohort, train, method, codes, args, seed)
        if method == "supervised":
            with torch.no_grad():
                guess = head(torch.from_numpy(features(network, cohort.patches[test], args.bf16))).argmax(1).numpy()
            return float(balanced_accuracy_score(truth, np.unique(labels)[guess]))
    coded = features(network, cohort.patches, args.bf16)
    return probe(coded[train], labels, coded[test], truth, args.strength)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", nargs="+", default=["P5", "P6"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--patch-px", type=int, default=48)
    parser.add_argument("--patch-um", type=float, default=112.0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--supervised-epochs", type=int, default=25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--projection", type=int, default=128)
    parser.add_argument("--jitter", type=float, default=0.2)
    parser.add_argument("--gene-epochs", type=int, default=150)
    parser.add_argument("--gene-lr", type=float, default=3e-3)
    parser.add_argument("--kl", type=float, default=1.0)
    parser.add_argument("--strength", type=float, default=0.01, help="C of the probe on image features")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        cohort = Cohort(seed, args.patch_px, args.patch_um)
        for method in args.methods:
            start = time.process_time()
            held_out = args.held_out[:1] if method == "within" else args.held_out
            scores = [measure(cohort, patient, method, args, seed) for patient in held_out]
            seconds = (time.process_time() - start) / len(scores)
            listed = " ".join(f"{score:.3f}" for score in scores)
            print(
                f"seed {seed}  {method:<10} {np.mean(scores):.3f}  ({listed})  {seconds:.0f} CPU seconds a fold",
                flush=True,
            )


if __name__ == "__main__":
    main()
