//! The nearest of several names, for hints. Pure.

/// The candidate that a mistyped name most likely meant; `None` when none is near.
pub(super) fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name: Vec<char> = name.to_lowercase().chars().take(64).collect();
    let near = candidates.iter().map(|candidate| (distance(&name, &candidate.chars().collect::<Vec<_>>()), *candidate));
    near.min().filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3)).map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that make one of the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
