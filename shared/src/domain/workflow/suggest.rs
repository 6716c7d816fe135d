//! "Did you mean": the known name that is nearest to an unknown one.

/// Ends a sentence about an unknown name: `; did you mean ...?` where one is near, else nothing.
pub fn did_you_mean<'n>(unknown: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    // Names from strangers may be long; comparing is quadratic.
    if unknown.chars().count() > 64 {
        return String::new();
    }
    let unknown = unknown.to_lowercase();
    let near = known
        .into_iter()
        .filter(|name| name.len() <= 256)
        .map(|name| (distance(&unknown, &name.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((distance, name)) if distance <= (unknown.chars().count() / 3).max(1) => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// How many letters must be added, removed, changed or swapped with their neighbour (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut least = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(before_last[j - 1] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits_and_swaps() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("abc", "abd", 1), ("wiat", "wait", 1), ("ab", "cd", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        assert_eq!(did_you_mean("extrct", ["wait", "extract"]), "; did you mean `extract`?");
        assert_eq!(did_you_mean("Extract", ["wait", "extract"]), "; did you mean `extract`?");
        assert_eq!(did_you_mean("bananas", ["wait", "extract"]), "");
        assert_eq!(did_you_mean(&"x".repeat(1000), ["x"]), "");
    }
}
