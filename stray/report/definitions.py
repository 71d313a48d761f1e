"""Definitions of the numbers of a comparison, in plain words."""

from __future__ import annotations

_TEXT = """
Cell: One method, trained without the patients of one fold, with one seed; scored on those patients.

Linear probe: Logistic regression on the frozen embeddings, its regularisation chosen inside the training patients.
Scores are the probe's unless it says otherwise.

Balanced accuracy: The share of a class's spots that were recognised, averaged over the classes that the held-out
patients have. Guessing one class gives 1 / number of classes, however common it is. A class that no training patient
has counts as 0; the variant over known classes leaves it out.

Accuracy, pooled: The share of all held-out spots that are right, over the predictions of all folds together.

Balanced accuracy, pooled: The same share of a class's spots, over the held-out spots of all folds together, averaged
over all their classes. A class that is rare in each patient has more spots to go by.

Macro-F1, pooled: F1 (the harmonic mean of recall and precision) of each class over the predictions of all folds
together, averaged over classes: rare classes count as much as common ones. The per-fold variants average over the
classes that the fold has, or over those of them that its training labels knew.

±: The standard deviation over cells. With a single fold it would be that of the seeds alone; the bracket is then a 95%
interval from resampling square blocks of the tissue (of several seeds, the widest): how much this tissue can tell, not
how much patients differ.

Difference and p: Paired by fold and seed. The p-value is that of a sign-flip test in which all seeds of a fold flip
together, since they are tested on the same patients; with F folds it cannot be smaller than 2 / 2^F, and below 3 folds
none is given. The p-values of a table are corrected for their number by Holm's method. Methods that were scored on
different spots (gene codes need counts, pictures a picture) are compared on the spots that both scored.

kNN: A vote of the nearest training spots by cosine distance, on the same embeddings; nothing is tuned.

Majority class: Always answers the commonest class of the training labels: what any score has to beat.

AUC: The probability that a spot of the class gets a higher probability for it than a spot of another class; 0.5 by
chance. The mean over cells.

Chosen methods: A method that chooses among others is, on each fold, the one of them that scored best on inner
validation patients, all of them training patients of the fold, when it was trained without these. No patient has a say
in the settings that it is scored with, which holds of no method picked by its scores in this table.

Weak labels: Labels that nobody made for these spots (for example transferred from a neighbouring section). They may
train a probe; scores on them measure agreement with the transfer, not truth, and are never pooled with others.
"""


def definitions() -> list[tuple[str, str]]:
    """Return (term, meaning), in the order in which a reader meets them."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in _TEXT.strip().split("\n\n"))
    return [(term, meaning) for term, _, meaning in (paragraph.partition(": ") for paragraph in paragraphs)]
