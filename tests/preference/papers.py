"""The losses as their papers write them, one completion and one pair at a time, in Python's own numbers.

Nothing of the project is used here. Numbers are complex, so that a derivative is exact: f(x + ih) has the imaginary
part h f'(x) for a tiny h. What a paper holds constant is taken by its real part.
"""

from __future__ import annotations

from cmath import exp, log
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

Number = complex


@dataclass(frozen=True)
class Data:
    """Completions as lists of token log-probabilities, and what is said of them.

    squares: of every token, the sum of the squared probabilities of the whole vocabulary there. group, label,
    mismatched, rank: one per completion. soft, margin: one per pair.
    """

    policy: Sequence[Sequence[Number]]
    reference: Sequence[Sequence[float]]
    squares: Sequence[Sequence[float]] = ()
    pairs: Sequence[tuple[int, int]] = ()
    soft: Sequence[float] = ()
    margin: Sequence[float] = ()
    label: Sequence[int] = ()
    mismatched: Sequence[int] = ()
    group: Sequence[int] = ()
    rank: Sequence[int] = field(default=())

    def rho(self, y: int) -> Number:
        return sum(self.policy[y]) - sum(self.reference[y])

    def log_pi(self, y: int) -> Number:
        return sum(self.policy[y])

    def length(self, y: int) -> int:
        return len(self.policy[y])

    def numbered(self) -> Sequence[tuple[int, int, int]]:
        return [(at, better, worse) for at, (better, worse) in enumerate(self.pairs)]


Loss = Callable[[Data], Number]


def gradient(loss: Loss, data: Data) -> list[float]:
    """The derivative by every token of the policy, in order."""
    step, found = 1e-30, list[float]()
    for at, tokens in enumerate(data.policy):
        for place in range(len(tokens)):
            pushed = [list(sequence) for sequence in data.policy]
            pushed[at][place] += 1j * step
            found.append(loss(replace(data, policy=pushed)).imag / step)
    return found


def sigmoid(x: Number) -> Number:
    return 1 / (1 + exp(-x))


def positive(x: Number) -> Number:
    return x if complex(x).real > 0 else 0.0


def mean(numbers: Sequence[Number]) -> Number:
    return sum(numbers) / len(numbers)


def by_value(numbers: Sequence[Number]) -> list[Number]:
    return sorted(numbers, key=lambda number: complex(number).real)


def nll(data: Data) -> Number:
    """The SFT term: per token of each chosen answer, a mean over pairs."""
    return mean([-data.log_pi(better) / data.length(better) for better, _ in data.pairs])


def dpo(data: Data, beta: float) -> Number:
    return mean([-log(sigmoid(beta * data.rho(w) - beta * data.rho(z))) for w, z in data.pairs])


def conservative_dpo(data: Data, beta: float, e: float) -> Number:
    h = [beta * (data.rho(w) - data.rho(z)) for w, z in data.pairs]
    return mean([-(1 - e) * log(sigmoid(x)) - e * log(sigmoid(-x)) for x in h])


def robust_dpo(data: Data, beta: float, e: float) -> Number:
    h = [beta * (data.rho(w) - data.rho(z)) for w, z in data.pairs]
    clean, flipped = [-log(sigmoid(x)) for x in h], [-log(sigmoid(-x)) for x in h]
    return mean([((1 - e) * a - e * b) / (1 - 2 * e) for a, b in zip(clean, flipped, strict=True)])


def normalised_dpo(data: Data, beta: float) -> Number:
    return mean(
        [
            -log(sigmoid(beta / data.length(w) * data.rho(w) - beta / data.length(z) * data.rho(z)))
            for w, z in data.pairs
        ]
    )


def soft_dpo(data: Data, beta: float, e: float = 0.0, weight: float = 0.0) -> Number:
    h = [beta * (data.rho(w) - data.rho(z)) - weight * data.margin[at] for at, w, z in data.numbered()]
    return flipped(h, data.soft, e)


def flipped(logits: Sequence[Number], soft: Sequence[float], e: float) -> Number:
    """The likelihood of votes, each of which is the other one with probability e."""
    total: Number = 0.0
    for h, share in zip(logits, soft, strict=True):
        total -= share * ((1 - e) * log(sigmoid(h)) + e * log(sigmoid(-h)))
        total -= (1 - share) * ((1 - e) * log(sigmoid(-h)) + e * log(sigmoid(h)))
    return total / len(logits)


def offset_dpo(data: Data, beta: float, weight: float) -> Number:
    losses = [
        -log(sigmoid(beta * data.rho(w) - beta * data.rho(z) - weight * data.margin[at]))
        for at, w, z in data.numbered()
    ]
    return mean(losses)


def rao_kupper(data: Data, beta: float, nu: float) -> Number:
    """Worths are exp(reward): p(a wins) = a / (a + nu b), p(tie) = (nu^2 - 1) a b / ((a + nu b)(nu a + b))."""
    total: Number = 0.0
    for at, w, z in data.numbered():
        a, b = exp(beta * data.rho(w)), exp(beta * data.rho(z))
        if data.soft[at] == 0.5:
            p = (nu**2 - 1) * a * b / ((a + nu * b) * (nu * a + b))
        else:
            p = a / (a + nu * b) if data.soft[at] > 0.5 else b / (b + nu * a)
        total -= log(p)
    return total / len(data.pairs)


def winners_first(data: Data) -> Data:
    """The same verdicts, the answer that is held to be better before the other."""
    turned = [soft < 0.5 for soft in data.soft]
    pairs = [(z, w) if turn else (w, z) for (w, z), turn in zip(data.pairs, turned, strict=True)]
    soft = [1 - share if turn else share for share, turn in zip(data.soft, turned, strict=True)]
    margin = [-by if turn else by for by, turn in zip(data.margin, turned, strict=True)]
    return replace(data, pairs=pairs, soft=soft, margin=margin)


def davidson(data: Data, beta: float, nu: float) -> Number:
    """p(a wins) = a / (a + b + 2 nu sqrt(a b)), p(tie) = 2 nu sqrt(a b) / (a + b + 2 nu sqrt(a b))."""
    total: Number = 0.0
    for at, w, z in data.numbered():
        a, b = exp(beta * data.rho(w)), exp(beta * data.rho(z))
        both = exp(beta * (data.rho(w) + data.rho(z)) / 2)
        won = 2 * nu * both if data.soft[at] == 0.5 else a if data.soft[at] > 0.5 else b
        total -= log(won / (a + b + 2 * nu * both))
    return total / len(data.pairs)


def ipo(data: Data, tau: float) -> Number:
    return mean([(data.rho(w) - data.rho(z) - 1 / (2 * tau)) ** 2 for w, z in data.pairs])


def normalised_ipo(data: Data, tau: float) -> Number:
    return mean(
        [(data.rho(w) / data.length(w) - data.rho(z) / data.length(z) - 1 / (2 * tau)) ** 2 for w, z in data.pairs]
    )


def soft_ipo(data: Data, tau: float) -> Number:
    """The population form of the paper up to a constant: h is drawn to (p - 1/2) / tau."""
    return mean([(data.rho(w) - data.rho(z) - (data.soft[at] - 0.5) / tau) ** 2 for at, w, z in data.numbered()])


def hinge(data: Data, beta: float) -> Number:
    return mean([positive(1 - beta * (data.rho(w) - data.rho(z))) for w, z in data.pairs])


def offset_hinge(data: Data, beta: float, weight: float) -> Number:
    losses = [
        positive(1 + weight * data.margin[at] - beta * (data.rho(w) - data.rho(z))) for at, w, z in data.numbered()
    ]
    return mean(losses)


def r_dpo(data: Data, beta: float, alpha: float) -> Number:
    return mean(
        [
            -log(sigmoid(beta * data.rho(w) - beta * data.rho(z) + (alpha * data.length(w) - alpha * data.length(z))))
            for w, z in data.pairs
        ]
    )


def dpop(data: Data, beta: float, penalty: float) -> Number:
    return mean(
        [-log(sigmoid(beta * (data.rho(w) - data.rho(z) - penalty * positive(-data.rho(w))))) for w, z in data.pairs]
    )


def wpo(data: Data, beta: float) -> Number:
    """A token weighs its probability over what a drawn one could expect; an answer the geometric mean of its tokens."""

    def weight(y: int) -> float:
        product = 1.0
        for token, square in zip(data.policy[y], data.squares[y], strict=True):
            product *= exp(complex(token).real).real / square
        return product ** (1 / data.length(y))

    return mean([-weight(w) * weight(z) * log(sigmoid(beta * data.rho(w) - beta * data.rho(z))) for w, z in data.pairs])


def exo(data: Data, beta: float, soft: Sequence[float], e: float) -> Number:
    """KL(p_f || p_r), both distributions over the two answers of a pair."""
    total: Number = 0.0
    for (w, z), share in zip(data.pairs, soft, strict=True):
        a, b = exp(beta * data.rho(w)), exp(beta * data.rho(z))
        model = (a / (a + b), b / (a + b))
        human = (share * (1 - e) + (1 - share) * e, share * e + (1 - share) * (1 - e))
        total += sum(p * log(p / q) for p, q in zip(model, human, strict=True))
    return total / len(data.pairs)


def nca(data: Data, beta: float) -> Number:
    total: Number = 0.0
    for w, z in data.pairs:
        r_w, r_l = beta * data.rho(w), beta * data.rho(z)
        total += -log(sigmoid(r_w)) - 0.5 * log(sigmoid(-r_w)) - 0.5 * log(sigmoid(-r_l))
    return total / len(data.pairs)


def apo_zero(data: Data, beta: float) -> Number:
    return mean([(1 - sigmoid(beta * data.rho(w))) + sigmoid(beta * data.rho(z)) for w, z in data.pairs])


def apo_down(data: Data, beta: float) -> Number:
    return mean(
        [sigmoid(beta * data.rho(w)) + (1 - sigmoid(beta * (data.rho(w) - data.rho(z)))) for w, z in data.pairs]
    )


def f_dpo(data: Data, beta: float, slope: Callable[[Number], Number]) -> Number:
    """slope: f' of the generator f, as a function of the ratio u."""

    def reward(y: int) -> Number:
        return beta * slope(exp(data.rho(y)))

    return mean([-log(sigmoid(reward(w) - reward(z))) for w, z in data.pairs])


def aot(data: Data, beta: float, e: float) -> Number:
    policy = by_value([data.log_pi(w) - data.log_pi(z) for w, z in data.pairs])
    reference = sorted(sum(data.reference[w]) - sum(data.reference[z]) for w, z in data.pairs)
    d = [beta * (p - r) for p, r in zip(policy, reference, strict=True)]
    return mean([-(1 - e) * log(sigmoid(x)) - e * log(sigmoid(-x)) for x in d])


def aot_unpaired(data: Data, beta: float) -> Number:
    chosen = by_value([data.rho(w) for w, _ in data.pairs])
    rejected = by_value([data.rho(z) for _, z in data.pairs])
    return mean([-log(sigmoid(beta * (u - v))) for u, v in zip(chosen, rejected, strict=True)])


def beta_dpo(data: Data, beta: float, alpha: float, keep: float) -> Number:
    gaps = [data.rho(w) - data.rho(z) for w, z in data.pairs]
    margins = [beta * complex(gap).real for gap in gaps]
    middle = sum(margins) / len(margins)
    nearest = sorted(range(len(gaps)), key=lambda at: abs(margins[at] - middle))
    kept = nearest[: max(1, round(keep * len(gaps)))]
    own = [max(beta * (1 + alpha * (margins[at] - middle)), 1e-3) for at in kept]
    return mean([-log(sigmoid(b * gaps[at])) for b, at in zip(own, kept, strict=True)])


def simpo(data: Data, beta: float, gamma: float) -> Number:
    return mean(
        [
            -log(sigmoid(beta / data.length(w) * data.log_pi(w) - beta / data.length(z) * data.log_pi(z) - gamma))
            for w, z in data.pairs
        ]
    )


def soft_simpo(data: Data, beta: float, gamma: float, e: float) -> Number:
    averages = [(data.log_pi(w) / data.length(w), data.log_pi(z) / data.length(z)) for w, z in data.pairs]
    return flipped([beta * (won - lost) - gamma for won, lost in averages], data.soft, e)


def soft_cpo(data: Data, beta: float, e: float) -> Number:
    return flipped([beta * (data.log_pi(w) - data.log_pi(z)) for w, z in data.pairs], data.soft, e)


def cpo(data: Data, beta: float) -> Number:
    return mean([-log(sigmoid(beta * data.log_pi(w) - beta * data.log_pi(z))) for w, z in data.pairs])


def orpo(data: Data) -> Number:
    def odds(y: int) -> Number:
        p = exp(data.log_pi(y) / data.length(y))
        return p / (1 - p)

    return mean([-log(sigmoid(log(odds(w) / odds(z)))) for w, z in data.pairs])


def slic(data: Data, delta: float) -> Number:
    return mean([positive(delta - data.log_pi(w) + data.log_pi(z)) for w, z in data.pairs])


def kto(data: Data, beta: float, desirable: float, undesirable: float) -> Number:
    elsewhere = [data.rho(y).real for y, flag in enumerate(data.mismatched) if flag]
    z0 = max(0.0, sum(elsewhere) / len(elsewhere))
    losses = list[Number]()
    for y, flag in enumerate(data.mismatched):
        if flag:
            continue
        if data.label[y]:
            losses.append(desirable - desirable * sigmoid(beta * (data.rho(y) - z0)))
        else:
            losses.append(undesirable - undesirable * sigmoid(beta * (z0 - data.rho(y))))
    return mean(losses)


def bco(data: Data, beta: float) -> Number:
    rewards = [beta * data.rho(y) for y in range(len(data.policy))]
    kinds = [[r.real for r, label in zip(rewards, data.label, strict=True) if label == kind] for kind in (1, 0)]
    means = [sum(kind) / len(kind) for kind in kinds if kind]
    shift = sum(means) / len(means)
    losses = [
        -log(sigmoid(r - shift)) if label else -log(sigmoid(-(r - shift)))
        for r, label in zip(rewards, data.label, strict=True)
    ]
    return mean(losses)


def plackett_luce(data: Data, beta: float) -> Number:
    """Pick the best of all, the best of the rest, and so on; ties are left unresolved, below their betters."""
    total: Number = 0.0
    groups = sorted(set(data.group))
    for group in groups:
        members = [y for y, own in enumerate(data.group) if own == group]
        for y in members:
            worse = [z for z in members if data.rank[z] > data.rank[y]]
            if worse:
                worths = {z: exp(beta * data.rho(z)) for z in (y, *worse)}
                total -= log(worths[y] / sum(worths.values()))
    return total / len(groups)


def forward_kl(u: Number) -> Number:
    return -1 / u


def js(u: Number) -> Number:
    return log(2 * u / (1 + u))


def alpha_divergence(alpha: float) -> Callable[[Number], Number]:
    return lambda u: (1 - u**-alpha) / alpha


def reverse_kl(u: Number) -> Number:
    return log(u) + 1


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's, for tests that ask what a reward has to do with length."""
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return covariance / sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))
