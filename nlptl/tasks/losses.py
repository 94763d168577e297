"""Losses of examples beyond the cross-entropy: pure functions on tensors that reduce nothing over the rows."""

import torch
import torch.nn.functional as F


def focal_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, gamma: float, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the focal loss of each example, shape [rows], from logits [rows, classes] and label ids [rows].

    It is -(1 - p)^gamma log p, with p the probability of the label: with gamma 0 the cross-entropy. `class_weights`
    [classes] multiply it by the weight of the label (Lin et al. 2017, arXiv:1708.02002, equations 4 and 5).
    """
    positions = labels[:, None]
    log_shares = logits.log_softmax(dim=-1)
    of_label = log_shares.gather(1, positions)[:, 0]
    # log(1 - p) from the other classes: from p it would be log(0), and its gradient NaN, where p rounds to 1.
    of_others = log_shares.scatter(1, positions, -torch.inf).logsumexp(dim=-1)
    losses = -(gamma * of_others).exp() * of_label
    return losses if class_weights is None else losses * class_weights[labels]


def binary_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 0.0,
    clip: float = 0.0,
    label_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean loss over the labels of each example, shape [rows], from logits and targets [rows, labels].

    With both gammas and `clip` at 0 it is the binary cross-entropy. With gammas it is the focal form, and with `clip`
    the asymmetric loss: a label that is absent costs -q^gamma_negative log(1 - q), where q = max(p - clip, 0), so that
    one with p <= clip costs nothing and gives no gradient (Ridnik et al. 2021, arXiv:2009.14119, equations 4 to 7).

    Targets are 0 and 1, or between them, where both losses are mixed. `label_weights` [labels] multiply the loss of
    each label, present or absent, before the mean: `weight` of `torch.nn.BCEWithLogitsLoss`.
    """
    targets = targets.to(logits.dtype)
    log_present, log_absent = F.logsigmoid(logits), F.logsigmoid(-logits)
    losses = -targets * (gamma_positive * log_absent).exp() * log_present
    losses = losses - (1 - targets) * _of_absent(logits, log_present, log_absent, gamma=gamma_negative, clip=clip)
    return (losses if label_weights is None else losses * label_weights).mean(dim=-1)


def adjust_logits(logits: torch.Tensor, log_priors: torch.Tensor, tau: float) -> torch.Tensor:
    """Return logits + tau * log prior, [rows, classes], whose cross-entropy is the logit-adjusted loss.

    `log_priors` [classes] are the logarithms of the shares of the classes in train. Logits are adjusted in training
    only: those that predict stay as they are (Menon et al. 2021, arXiv:2007.07314, equation 10).
    """
    return logits + tau * log_priors


def conditional_log_probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Return the log probability of each class, [rows, classes], from the scores [rows, classes - 1] of CORN.

    The sigmoid of score k is P(y > k | y > k - 1): an example is of class j if it passes the conditions below j and
    fails condition j (Shi, Cao and Raschka 2021, arXiv:2111.08851).
    """
    passed = F.pad(F.logsigmoid(scores).cumsum(dim=-1), (1, 0))
    failed = F.pad(F.logsigmoid(-scores), (0, 1))
    return passed + failed


def num_conditions(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return in how many of the conditional tasks of CORN each example takes part, integers [rows].

    The loss of CORN over some rows is the sum of -log P(label) divided by the sum of these numbers (Shi, Cao and
    Raschka 2021, arXiv:2111.08851).
    """
    return (labels + 1).clamp(max=num_classes - 1)


def _of_absent(
    logits: torch.Tensor, log_present: torch.Tensor, log_absent: torch.Tensor, *, gamma: float, clip: float
) -> torch.Tensor:
    """Return q^gamma log(1 - q), q = max(p - clip, 0), of each label, [rows, labels]."""
    if clip == 0:  # logarithms alone: q itself rounds to 0 or 1
        return (gamma * log_present).exp() * log_absent
    shifted = logits.sigmoid() - clip
    costs = shifted > 0
    shifted = shifted.where(costs, 0.5)  # any number with a finite gradient; the result is replaced by 0
    return (shifted**gamma * torch.log1p(-shifted)).where(costs, 0.0)
