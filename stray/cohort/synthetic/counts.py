"""Gene counts of the synthetic cohort: class programmes, continuous latents, patient effects, negative binomial noise.

For spot n with composition w_n over classes and latents u_n, patient p, gene g:

    rate_ng  = sum_k w_nk * content_k * softmax_g(base_g + class_kg + sum_l u_nl * latent_lg)
    mean_ng ~ rate_ng * exp(patient_pg) * capture_pg * exp(section_g),   rows scaled to the spot's depth
    count_ng ~ NB(mean_ng, dispersion_g)

`patient_pg` has a part of its own for every gene and a part along the class and latent programmes: one patient's
connective tissue may look like another's cancer to whatever reads single genes. A decoder that is told the patient can
undo both, since they are constant over a patient.

Legend: S spots, G genes, K classes, L latents, P patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from stray.cohort.synthetic.fields import generator, spread_normals
from stray.cohort.synthetic.layout import CLASSES, LATENTS, Layout

_CLASS_GENE_SHARE = 0.10
_CLASS_EFFECT = 1.4
_LATENT_GENE_SHARE = 0.12
_LATENT_EFFECT = 0.35
_CONTENT = np.array([1.3, 1.0, 0.7, 0.4, 1.1])
"""RNA in a spot of each class, relative."""
_DEPTH = 3500.0
"""Usual total count of a spot."""
_PATIENT_GENE_SD = 0.7
"""Standard deviation over genes of a patient's own log factors."""
_PATIENT_PROGRAMME_SD = 0.55
"""Standard deviation of a patient's shift along each programme."""
_PATIENT_DEPTH_SD = 0.45
_LOST_GENE_SHARE = 0.12
"""Share of the genes that a patient's assay captures badly."""
_LOST_GENE_CAPTURE = 0.05
_SECTION_GENE_SD = 0.1
_SPOTS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Programmes:
    """Gene programmes, the same in all patients."""

    base_G: np.ndarray
    classes_KG: np.ndarray
    latents_LG: np.ndarray
    dispersion_G: np.ndarray


def gene_symbols(n_genes: int) -> tuple[str, ...]:
    """Return names of the genes: SYN00001, SYN00002, ..."""
    return tuple(f"SYN{index + 1:05d}" for index in range(n_genes))


def draw_programmes(seed: int, n_genes: int) -> Programmes:
    """Draw the gene programmes of the cohort `seed`."""
    rng = generator(seed, "programmes")
    classes = _sparse_effects(rng, len(CLASSES), n_genes, _CLASS_GENE_SHARE, _CLASS_EFFECT)
    latents = _sparse_effects(rng, len(LATENTS), n_genes, _LATENT_GENE_SHARE, _LATENT_EFFECT)
    return Programmes(
        base_G=rng.normal(0.0, 1.0, n_genes),
        # Markers are mostly gained, seldom lost, as the genes of a cell type are.
        classes_KG=np.where(rng.random(classes.shape) < 0.75, np.abs(classes), -np.abs(classes)),
        latents_LG=latents,
        dispersion_G=rng.lognormal(np.log(4.0), 0.5, n_genes),
    )


def _sparse_effects(rng: np.random.Generator, rows: int, n_genes: int, share: float, size: float) -> np.ndarray:
    chosen = rng.random((rows, n_genes)) < share
    return chosen * rng.normal(0.0, 1.0, chosen.shape) * size


def patient_log_effect(seed: int, patient: int, programmes: Programmes) -> np.ndarray:
    """Return the log factors that patient `patient` (from 0) puts on the genes, (G,)."""
    rng = generator(seed, "patient genes", patient)
    n_genes = len(programmes.base_G)
    own = rng.normal(0.0, _PATIENT_GENE_SD, n_genes)
    directions = np.concatenate([programmes.classes_KG, programmes.latents_LG])
    along = spread_normals(seed, "patient programmes", patient, len(directions)) * _PATIENT_PROGRAMME_SD
    lost = rng.random(n_genes) < _LOST_GENE_SHARE
    return own + along @ directions + lost * np.log(_LOST_GENE_CAPTURE)


def draw_counts(seed: int, patient: int, section: int, layout: Layout, n_genes: int) -> sparse.csr_matrix:
    """Draw the counts of one section, (S, G) CSR of int64, a function of the arguments alone."""
    programmes = draw_programmes(seed, n_genes)
    rng = generator(seed, "counts", patient, section)
    effect = patient_log_effect(seed, patient, programmes) + rng.normal(0.0, _SECTION_GENE_SD, n_genes)
    depth = _DEPTH * np.exp(_PATIENT_DEPTH_SD * spread_normals(seed, "patient depth", patient, 1)[0])
    chunks = []
    for start in range(0, len(layout.xy_um), _SPOTS_AT_ONCE):
        rows = slice(start, start + _SPOTS_AT_ONCE)
        chunks.append(_draw_chunk(rng, programmes, effect, depth, layout.composition[rows], layout.latents[rows]))
    return sparse.csr_matrix(sparse.vstack(chunks, format="csr"))


def _draw_chunk(
    rng: np.random.Generator,
    programmes: Programmes,
    effect_G: np.ndarray,
    depth: float,
    composition_SK: np.ndarray,
    latents_SL: np.ndarray,
) -> sparse.csr_matrix:
    common_SG = np.exp(programmes.base_G + latents_SL @ programmes.latents_LG)
    rate_SG = np.zeros_like(common_SG)
    for k, content in enumerate(_CONTENT):
        profile_SG = common_SG * np.exp(programmes.classes_KG[k])
        profile_SG /= profile_SG.sum(axis=1, keepdims=True)
        rate_SG += composition_SK[:, k : k + 1] * content * profile_SG
    content_S = rate_SG.sum(axis=1)
    mean_SG = rate_SG * np.exp(effect_G)
    spot_depth_S = depth * content_S * np.exp(0.2 * latents_SL[:, 0] + rng.normal(0.0, 0.25, len(content_S)))
    mean_SG *= (spot_depth_S / mean_SG.sum(axis=1))[:, None]
    # A negative binomial is a Poisson whose rate is gamma distributed.
    noise_SG = rng.standard_gamma(np.broadcast_to(programmes.dispersion_G, mean_SG.shape)) / programmes.dispersion_G
    return sparse.csr_matrix(rng.poisson(mean_SG * noise_SG))
