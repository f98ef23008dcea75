"""The formulas as plain loops over one group at a time: what the vectorised code is compared with.

Every function takes NumPy arrays of one prompt, ``scores [G, C]``, ``mask [G, C]``, ``weights [C]``, ``rewards [G]``,
``valid [G]``, unless it says otherwise, and reads nothing where the mask is False.
"""

from __future__ import annotations

import math

import numpy as np


def ragged_batch(rng, prompts, most_rollouts=6, most_criteria=5):
    """Padded groups of random size: float64 scores with NaN wherever they do not count, normalised weights, mask."""
    scores = rng.random((prompts, most_rollouts, most_criteria))
    binary = rng.random(prompts) < 0.5
    scores[binary] = np.round(scores[binary])
    level = rng.random(prompts) < 0.1
    scores[level] = scores[level, :1, :1]  # all equal
    mask = rng.random(scores.shape) < rng.choice([0.5, 0.9, 1.0], size=(prompts, 1, 1))
    mask &= np.arange(most_rollouts)[None, :, None] < rng.integers(1, most_rollouts + 1, (prompts, 1, 1))
    sizes = rng.integers(1, most_criteria + 1, prompts)
    present = np.arange(most_criteria)[None] < sizes[:, None]
    mask &= present[:, None]
    mask &= rng.random((prompts, most_rollouts, 1)) < 0.9  # rollouts that could not be judged at all
    mask &= rng.random((prompts, 1, 1)) < 0.97  # whole groups that could not
    points = rng.integers(1, 10, (prompts, most_criteria)) * present
    weights = points / points.sum(-1, keepdims=True)
    return np.where(mask, scores, np.nan), weights, mask


def static_reward(scores, weights, mask):
    rewards = []
    for s, m in zip(scores, mask, strict=True):
        above = sum(w * x for w, x, ok in zip(weights, s, m, strict=True) if ok)
        below = sum(w for w, ok in zip(weights, m, strict=True) if ok)
        rewards.append(above / below if below > 0 else 0.0)
    return np.array(rewards)


def projection_sums(scores, weights, mask, temperature=1.0):
    rewards = static_reward(scores, weights, mask)
    valid = [i for i in range(len(rewards)) if sum(w for w, ok in zip(weights, mask[i], strict=True) if ok) > 0]
    top = max((rewards[i] for i in valid), default=0.0)
    unnormalised = {i: math.exp((rewards[i] - top) / temperature) for i in valid}
    total = sum(unnormalised.values())
    projected, judged = np.zeros(len(weights)), np.zeros(len(weights))
    for i, q in unnormalised.items():
        for c in range(len(weights)):
            if mask[i, c]:
                projected[c] += q / total * scores[i, c]
                judged[c] += q / total
    return projected, judged


def saturation(scores, weights, mask, temperature=1.0):
    projected, judged = projection_sums(scores, weights, mask, temperature)
    return np.array([min(max(p / j, 0.0), 1.0) if j > 0 else 0.0 for p, j in zip(projected, judged, strict=True)])


def focal_weights(levels, weights, applies, gamma=3.0, epsilon=0.05):
    raw = [b * (1 - s + epsilon) ** gamma if ok else 0.0 for s, b, ok in zip(levels, weights, applies, strict=True)]
    return np.array([x / sum(raw) if sum(raw) > 0 else 0.0 for x in raw])


def bounded(values, low, high):
    """Projection on ``{sum 1, low <= w <= high}`` by bisection on the shift; any number of rows."""
    left, right = (values - high).min(-1, keepdims=True) - 1, (values - low).max(-1, keepdims=True) + 1
    for _ in range(60):
        middle = (left + right) / 2
        above = np.clip(values - middle, low, high).sum(-1, keepdims=True) > 1
        left, right = np.where(above, middle, left), np.where(above, right, middle)
    return np.clip(values - (left + right) / 2, low, high)


def mean_std(values, population=False):
    values = list(values)
    mean = sum(values) / len(values)
    divisor = len(values) if population else len(values) - 1
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / divisor) if divisor else 0.0


def _spread(values):
    return len(values) > 1 and max(values) - min(values) > 1e-12


def group_advantage(rewards, valid, epsilon=1e-6, scaled=True):
    out = np.zeros(len(rewards))
    kept = [r for r, ok in zip(rewards, valid, strict=True) if ok]
    if not _spread(kept):
        return out
    mean, std = mean_std(kept)
    for i, (r, ok) in enumerate(zip(rewards, valid, strict=True)):
        if ok:
            out[i] = (r - mean) / (std + epsilon) if scaled else r - mean
    return out


def rloo_advantage(rewards, valid):
    out = np.zeros(len(rewards))
    for i, ok in enumerate(valid):
        others = [rewards[j] for j in range(len(rewards)) if valid[j] and j != i]
        if ok and others:
            out[i] = rewards[i] - sum(others) / len(others)
    return out


def batch_advantage(rewards, valid, epsilon=1e-6):
    """``rewards``, ``valid``: ``[P, G]``."""
    everything = [r for row, oks in zip(rewards, valid, strict=True) for r, ok in zip(row, oks, strict=True) if ok]
    std = mean_std(everything)[1] if len(everything) > 1 else 0.0
    return np.array([group_advantage(r, v, scaled=False) / (std + epsilon) for r, v in zip(rewards, valid, strict=True)])


def clipped_token_loss(logp, old_logp, advantage, low=0.2, high=0.2, dual=None):
    """One token."""
    ratio = math.exp(logp - old_logp)
    loss = -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    return min(loss, -dual * advantage) if dual is not None and advantage < 0 else loss


def aggregate(values, mask, how, length=None):
    """``values``, ``mask``: ``[N, T]``."""
    rows = [[v for v, ok in zip(row, oks, strict=True) if ok] for row, oks in zip(values, mask, strict=True)]
    rows = [row for row in rows if row]
    if not rows:
        return 0.0
    if how == "token_mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    if how == "sequence_mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(map(sum, rows)) / (len(rows) * length)


def zscores(scores, mask, epsilon=1e-6):
    out = np.zeros(scores.shape)
    for c in range(scores.shape[1]):
        rows = [i for i in range(len(scores)) if mask[i, c]]
        values = [scores[i, c] for i in rows]
        if _spread(values):
            mean, std = mean_std(values)
            for i in rows:
                out[i, c] = (scores[i, c] - mean) / (std + epsilon)
    return out


def gdpo(scores, weights, mask, epsilon=1e-6):
    """A batch: ``scores``, ``mask`` ``[P, G, C]``, ``weights [P, C]``."""
    raw = np.array([(zscores(s, m) * w).sum(-1) for s, w, m in zip(scores, weights, mask, strict=True)])
    valid = (mask & (weights > 0)[:, None]).any(-1)
    kept = [float(x) for x in raw[valid]]
    mean, std = mean_std(kept) if len(kept) > 1 else (0.0, 0.0)
    return np.where(valid, (raw - mean) / (std + epsilon), 0.0)


def dvao(scores, weights, mask, epsilon=1e-6):
    stds, z = np.zeros(len(weights)), np.zeros(scores.shape)
    for c in range(len(weights)):
        rows = [i for i in range(len(scores)) if mask[i, c]]
        values = [scores[i, c] for i in rows]
        if _spread(values):
            mean, stds[c] = mean_std(values, population=True)
            for i in rows:
                z[i, c] = (scores[i, c] - mean) / stds[c]
    total = sum(b * s for b, s in zip(weights, stds, strict=True))
    if total <= epsilon:
        return np.zeros(len(scores))
    return np.array([sum(b * s / total * x for b, s, x in zip(weights, stds, row, strict=True)) for row in z])


def softmin(scores, mask, k, weights=None):
    out = np.zeros(len(scores))
    for i, row in enumerate(zscores(scores, mask)):
        counted = [c for c in range(len(row)) if mask[i, c]]
        if counted:
            share = [1.0 if weights is None else weights[c] for c in counted]
            mean = sum(w * math.exp(-k * row[c]) for w, c in zip(share, counted, strict=True)) / sum(share)
            out[i] = -math.log(mean) / k
    return out


def saw(scores, weights, mask):
    """A batch, columns are names."""
    variation = []
    for c in range(weights.shape[1]):
        values = [float(x) for x in scores[..., c][mask[..., c]]]
        mean, std = mean_std(values, population=True) if _spread(values) else (1.0, 0.0)
        variation.append(std / mean if mean > 0 else 0.0)
    out = np.zeros(weights.shape)
    for p in range(len(weights)):
        base = [w if mask[p, :, c].any() else 0.0 for c, w in enumerate(weights[p])]
        raw = [w * v for w, v in zip(base, variation, strict=True)]
        raw = raw if sum(raw) > 0 else base
        out[p] = [x / sum(raw) if sum(raw) > 0 else 0.0 for x in raw]
    return out


def worst_of(scores, mask):
    return np.array([min((x for x, ok in zip(s, m, strict=True) if ok), default=0.0) for s, m in zip(scores, mask, strict=True)])


def gated(scores, weights, mask, required):
    out = static_reward(scores, weights, mask)
    for i in range(len(scores)):
        for c in range(len(weights)):
            if mask[i, c] and required[c]:
                out[i] *= scores[i, c]
    return out


def criterion_counts(batches, names, threshold=1.0):
    """``batches``: ``(scores, mask, failed, keys)`` each; a dictionary of sums by name."""
    fields = ("slots", "judged", "failed", "score", "groups", "all_pass", "all_fail", "spread_groups", "spread")
    sums = {field: dict.fromkeys(names, 0.0) for field in fields}
    for scores, mask, failed, keys in batches:
        for p, row in enumerate(keys):
            for c, name in enumerate(row):
                kept = [scores[p, i, c] for i in range(scores.shape[1]) if mask[p, i, c]]
                sums["slots"][name] += scores.shape[1]
                sums["judged"][name] += len(kept)
                sums["failed"][name] += sum(bool(failed[p, i, c]) for i in range(scores.shape[1]))
                sums["score"][name] += sum(kept)
                sums["groups"][name] += bool(kept)
                sums["all_pass"][name] += bool(kept) and all(x >= threshold for x in kept)
                sums["all_fail"][name] += bool(kept) and all(x < threshold for x in kept)
                sums["spread_groups"][name] += len(kept) > 1
                sums["spread"][name] += mean_std(kept)[1] if len(kept) > 1 else 0.0
    return sums


def gini(levels):
    total = sum(abs(a - b) for a in levels for b in levels)
    return total / (2 * len(levels) ** 2 * (sum(levels) / len(levels))) if sum(levels) > 0 else 0.0


def _normalised(raw):
    return np.array([x / sum(raw) if sum(raw) > 0 else 0.0 for x in raw])


def _columns(scores, mask):
    """The scores that count of each criterion."""
    return [[float(scores[i, c]) for i in range(len(scores)) if mask[i, c]] for c in range(scores.shape[1])]


def mo_grpo(scores, weights, mask):
    stds = [mean_std(values)[1] if _spread(values) else 0.0 for values in _columns(scores, mask)]
    base = [w if mask[:, c].any() else 0.0 for c, w in enumerate(weights)]
    raw = [w / std if std > 0 else 0.0 for w, std in zip(base, stds, strict=True)]
    return _normalised(raw if sum(raw) > 0 else base)


def diva(scores, weights, mask, epsilon=0.01):
    columns = _columns(scores, mask)
    return _normalised(
        [
            (mean_std(values, population=True)[1] ** 2 if _spread(values) else 0.0) + epsilon if values and w > 0 else 0.0
            for values, w in zip(columns, weights, strict=True)
        ]
    )


def pow3r_factors(scores, weights, mask, categories, strength=0.5, low=0.2, high=3.0, epsilon=1e-3):
    columns, out = _columns(scores, mask), np.ones(len(weights))
    part = [bool(values) and w > 0 for values, w in zip(columns, weights, strict=True)]
    contrast = [math.sqrt((mean_std(v, population=True)[1] ** 2 if _spread(v) else 0.0) + epsilon) for v in columns]
    for c in range(len(weights)):
        if part[c]:
            peers = [contrast[k] for k in range(len(weights)) if part[k] and categories[k] == categories[c]]
            out[c] = min(max(1 - strength + strength * contrast[c] / (sum(peers) / len(peers)), low), high)
    return out


def pow3r_weights(weights, factors, categories):
    out = np.zeros(len(weights))
    for c in range(len(weights)):
        peers = [k for k in range(len(weights)) if categories[k] == categories[c]]
        total = sum(weights[k] * factors[k] for k in peers)
        out[c] = weights[c] * factors[c] * sum(weights[k] for k in peers) / total if total > 0 else 0.0
    return out


def sa_mrpo(scores, weights, mask, gamma=0.5):
    """A batch, columns are names."""
    out = np.zeros(weights.shape)
    for c in range(weights.shape[1]):
        values = [float(x) for x in scores[..., c][mask[..., c]]]
        for p in range(len(weights)):
            if mask[p, :, c].any():
                out[p, c] = weights[p, c] * (1 - sum(values) / len(values)) ** gamma
    return out


def gd2po(scores, weights, mask, agreement=0.2):
    """A batch."""
    out, valid = gdpo(scores, weights, mask), (mask & (weights > 0)[:, None]).any(-1)
    for p in range(len(scores)):
        parts = zscores(scores[p], mask[p]) * weights[p]
        stays = [abs(row.sum()) >= agreement * np.abs(row).sum() * (1 - 1e-12) for row in parts]
        judged = [i for i in range(len(parts)) if valid[p, i]]
        share = sum(stays[i] for i in judged) / max(1, len(judged))
        out[p] = [a * share if stay else 0.0 for a, stay in zip(out[p], stays, strict=True)]
    return out


def item_response(scores, weights, mask, difficulty):
    """By bisection on the derivative of the log posterior, which falls."""

    def mills(x):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) / (math.erfc(-x / math.sqrt(2)) / 2)

    out = np.zeros(len(scores))
    for i in range(len(scores)):
        judged = [c for c in range(len(weights)) if mask[i, c] and weights[c] > 0]
        total = sum(weights[c] for c in judged)
        items = [(len(judged) * weights[c] / total, scores[i, c], difficulty[c]) for c in judged]
        left, right = -12.0, 12.0
        for _ in range(60):
            theta = (left + right) / 2
            slope = sum(v * (s * mills(theta - d) - (1 - s) * mills(d - theta)) for v, s, d in items) - theta
            left, right = (theta, right) if slope > 0 else (left, theta)
        out[i] = theta if items else 0.0
    return out


def disagreement(scores, repeated, mask):
    """A batch, columns are names: sum of differences, and number of pairs."""
    out = np.zeros((2, scores.shape[2]))
    for p, i, c in np.ndindex(scores.shape):
        if mask[p, i, c] and not math.isnan(repeated[p, i, c]):
            out[:, c] += [abs(scores[p, i, c] - repeated[p, i, c]), 1]
    return out


def informed(weights, values, power=2.0):
    raw = [w * (1.0 if math.isnan(j) else j) ** power for w, j in zip(weights, values, strict=True)]
    return _normalised(raw if sum(raw) > 0 else weights)


def dropped(noise, applies, share, least):
    """Which take part."""
    order = sorted((c for c in range(len(noise)) if applies[c]), key=lambda c: (noise[c], c))
    return set(order[min(math.floor(share * len(order) + 1e-9), max(0, len(order) - least)) :])


def patience(levels, extras, margin):
    """One criterion over batches: ``(reference, waited)`` after each."""
    reference, waited, out = math.nan, 0, []
    for level, extra in zip(levels, extras, strict=True):
        if not math.isnan(level):
            moved = math.isnan(reference) or abs(level - reference) >= margin
            if moved or not extra:
                reference, waited = level, int(extra)
            else:
                waited += 1
        out.append((reference, waited))
    return out


def give_back(weights, base, spent):
    keeps = [min(w, b) if gives else 0.0 for w, b, gives in zip(weights, base, spent, strict=True)]
    others = [0.0 if gives else w for w, gives in zip(weights, spent, strict=True)]
    if not any(gives and w > b for w, b, gives in zip(weights, base, spent, strict=True)):
        return np.array(weights)
    if sum(others) <= 0:
        return np.array(base)
    rest = sum(weights) - sum(keeps)
    return _normalised([k + o * rest / sum(others) for k, o in zip(keeps, others, strict=True)])
