"""Values for crates/hone-pipeline/src/compare/stats/tests.rs, from mpmath with 40 digits (pip install mpmath).

McNemar: the sum of binomial probabilities. Student and normal: mpmath's own integrals. Tango: the supposed difference
at which the score is z, with the likelihood maximised numerically rather than by the formula.
"""
from mpmath import mp, mpf, binomial, quad, gamma, sqrt, pi, erfc, inf, log, findroot

mp.dps = 40


def mcnemar(gained, lost):
    n = gained + lost
    return sum(binomial(n, k) for k in range(gained, n + 1)) / mpf(2) ** n


def student_tail(t, v):
    v = mpf(v)
    density = lambda x: gamma((v + 1) / 2) / (sqrt(v * pi) * gamma(v / 2)) * (1 + x * x / v) ** (-(v + 1) / 2)
    return quad(density, [t, t + 1, t + 10, t + 100, t + 10000, inf])


def normal_tail(z):
    return erfc(mpf(z) / sqrt(2)) / 2


def score(gained, lost, n, d):
    """The share q of lost answers maximises the likelihood with the share of gained ones at q + d."""
    low, high = max(mpf(0), -d) + mpf(10) ** -30, (1 - d) / 2 - mpf(10) ** -30

    def likelihood(q):
        rest = n - gained - lost
        part = lambda count, share: count * log(share) if count else mpf(0)
        return part(gained, q + d) + part(lost, q) + part(rest, 1 - 2 * q - d)

    for _ in range(400):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if likelihood(a) < likelihood(b):
            low = a
        else:
            high = b
    q = (low + high) / 2
    return (gained - lost - n * d) / sqrt(n * (2 * q + d - d * d))


def tango(gained, lost, n, z, low, high):
    f = lambda d: score(gained, lost, n, d)
    ends = []
    for start, end, goal in ((low, mpf(gained - lost) / n, z), (mpf(gained - lost) / n, high, -z)):
        a, b = mpf(start), mpf(end)
        for _ in range(60):
            m = (a + b) / 2
            if f(m) > goal:
                a = m
            else:
                b = m
        ends.append((a + b) / 2)
    return ends


for pair in ((0, 0), (5, 0), (8, 2), (15, 5), (100, 50), (600, 500)):
    print("mcnemar", pair, mp.nstr(mcnemar(*pair), 12))
for t, v in ((2.0, 3), (1.0, 1), (3.5, 9), (4.0, 199)):
    print("student_tail", t, v, mp.nstr(student_tail(mpf(t), v), 12))
for z in (0.0, 1.0, 1.959963985, 4.0, 6.0):
    print("normal_tail", z, mp.nstr(normal_tail(z), 12))
for case in ((0, 0, 100), (10, 5, 100), (15, 5, 100), (40, 0, 100), (3, 0, 300), (100, 50, 1000), (0, 100, 1000)):
    print("tango", case, [mp.nstr(x, 10) for x in tango(*case, mpf("1.959963985"), -0.999, 0.999)])
