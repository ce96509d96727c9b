//! The few distributions that verdicts need. Pure; every function is held against values of an independent library
//! (`scripts/reference_statistics.py`).

#[cfg(test)]
mod tests;

/// Discordant answers up to which McNemar's test is exact; above it the normal approximation differs by less than a
/// hundredth of the value.
pub const EXACT_DISCORDANT: u64 = 1_000;
/// Degrees of freedom above which Student's t is taken as normal.
const NORMAL_ABOVE: f64 = 10_000.0;
/// Halvings of a bisection: enough for every bit that matters.
const HALVINGS: usize = 80;
/// A tail below this is nothing.
const TINY: f64 = 1e-300;

/// McNemar's one-sided p-value: how probable at least `gained` of the `gained + lost` changed answers are when a
/// change is as likely for the better as for the worse. Exact up to [`EXACT_DISCORDANT`] changed answers, then normal
/// with continuity correction.
#[must_use]
pub fn mcnemar(gained: u64, lost: u64) -> f64 {
    let changed = gained + lost;
    if gained == 0 {
        return 1.0;
    }
    if changed <= EXACT_DISCORDANT {
        return incomplete_beta(0.5, gained as f64, lost as f64 + 1.0);
    }
    let difference = gained as f64 - lost as f64;
    normal_tail((difference - 1.0) / (changed as f64).sqrt())
}

/// Tango's score interval of the difference of two paired shares, `(gained - lost) / num`, at `z` standard errors to
/// each side. It stays honest where few or no answers changed (Tango, Statistics in Medicine 17, 1998).
#[must_use]
pub fn paired_share_interval(gained: u64, lost: u64, num: u64, z: f64) -> (f64, f64) {
    let observed = (gained as f64 - lost as f64) / num as f64;
    // The score falls with the difference that is supposed.
    let limit = |mut inside: f64, mut outside: f64| {
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(inside, outside);
            if paired_share_score(gained, lost, num, middle).abs() <= z { inside = middle } else { outside = middle }
        }
        inside
    };
    (limit(observed, -1.0), limit(observed, 1.0))
}

/// How many standard errors the observed difference of two paired shares lies above the supposed one.
#[must_use]
pub fn paired_share_score(gained: u64, lost: u64, num: u64, supposed: f64) -> f64 {
    let (gained, lost, num) = (gained as f64, lost as f64, num as f64);
    // The share of lost answers that is most likely where the difference is as supposed: the root of
    // a q^2 + b q + c = 0.
    let (a, b) = (2.0 * num, -gained - lost + (2.0 * num - gained + lost) * supposed);
    let c = -lost * supposed * (1.0 - supposed);
    let share_lost = (((b * b - 4.0 * a * c).max(0.0).sqrt() - b) / (2.0 * a)).max(0.0);
    let variance = num * (2.0 * share_lost + supposed * (1.0 - supposed));
    let distance = gained - lost - num * supposed;
    if distance == 0.0 { 0.0 } else { distance / variance.max(0.0).sqrt() }
}

/// The probability of more than `t` under Student's distribution.
#[must_use]
pub fn student_tail(t: f64, degrees: f64) -> f64 {
    if degrees > NORMAL_ABOVE || t.is_infinite() {
        return normal_tail(t);
    }
    let half = 0.5 * incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5);
    if t >= 0.0 { half } else { 1.0 - half }
}

/// What Student's variable exceeds with probability `tail`.
#[must_use]
pub fn student_quantile(tail: f64, degrees: f64) -> f64 {
    quantile(tail, |t| student_tail(t, degrees))
}

/// What a normal variable exceeds with probability `tail`.
#[must_use]
pub fn normal_quantile(tail: f64) -> f64 {
    quantile(tail, normal_tail)
}

/// The probability of more than `z` under the normal distribution; relative error below 2e-7
/// (Numerical Recipes in C, 2nd edition, section 6.2).
#[must_use]
pub fn normal_tail(z: f64) -> f64 {
    const TERMS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let exponent = TERMS.iter().rev().fold(0.0, |sum, term| sum * t + term);
    let tail = 0.5 * t * (exponent - x * x).exp();
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// Where a falling tail has the value `tail`.
fn quantile(tail: f64, of: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-1e3, 1e3);
    let tail = tail.max(TINY);
    while of(high) > tail {
        high *= 10.0;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if of(middle) > tail { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The regularised incomplete beta function.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * continued_fraction(x, a, b) / a
    } else {
        1.0 - front * continued_fraction(1.0 - x, b, a) / b
    }
}

/// Lentz's method for the continued fraction of the incomplete beta function.
fn continued_fraction(x: f64, a: f64, b: f64) -> f64 {
    const MAX_TERMS: u32 = 10_000;
    let bounded = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / bounded(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = d;
    for m in (1..MAX_TERMS).map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / bounded(1.0 + term * d);
            c = bounded(1.0 + term / c);
            change = d * c;
            value *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function for positive arguments (Lanczos, g = 7, 9 terms).
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = TERMS.iter().zip(1..).fold(0.999_999_999_999_809_9, |sum, (term, i)| sum + term / (x + f64::from(i)));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}
