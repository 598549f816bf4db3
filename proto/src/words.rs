//! Counts in sentences, as the node and kvctl both tell them.

/// A number of things: "1 node", "2 nodes", "1 entry", "2 entries". `thing` in the singular; a word that is not made so has no place here.
pub fn count(number: impl TryInto<u64>, thing: &str) -> String {
    // What does not fit are many.
    let number = number.try_into().unwrap_or(u64::MAX);
    if number == 1 {
        return format!("1 {thing}");
    }
    match thing.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        _ => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_from_many() {
        for (number, thing, text) in [
            (1_u64, "step", "1 step"),
            (0, "step", "0 steps"),
            (2, "more node", "2 more nodes"),
            (1, "entry", "1 entry"),
            (64, "entry", "64 entries"),
            (2, "key", "2 keys"),
        ] {
            assert_eq!(count(number, thing), text);
        }
        assert_eq!(count(3_usize, "voter"), "3 voters");
        assert_eq!(count(1_u32, "voter"), "1 voter");
    }
}
