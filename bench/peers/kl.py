"""KL divergence between next-token distributions, and means over windows with their standard errors."""

import math

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis: f32, with sums in double precision."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)


def window_scores(reference: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean KL(reference‖candidate) and mean negative log-likelihood of the labels, in nats; both [positions, vocabulary]."""
    ours, theirs = log_softmax(reference), log_softmax(logits)
    kl = (np.exp(ours) * (ours - theirs)).sum(dtype=np.float64)
    nll = -np.take_along_axis(theirs, labels[:, None], axis=-1).sum(dtype=np.float64)
    return float(kl) / len(labels), float(nll) / len(labels)


def mean_with_error(values: list[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def quality(window_kl: list[float], window_nll: list[float]) -> dict:
    """The keys of `optiq eval --json`."""
    kl, kl_error = mean_with_error(window_kl)
    nll, nll_error = mean_with_error(window_nll)
    return {"kl_mean": kl, "kl_stderr": kl_error, "ppl": math.exp(nll), "ppl_stderr": math.exp(nll) * nll_error,
            "window_kl": window_kl, "window_nll": window_nll}
