//! Why a URL that a crawl knows of was not visited: a reason to count by, and a sentence for people.

/// The longest sentence that is kept, in bytes.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// Why a URL was not visited, coarse enough to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// It lies deeper than `max_depth`.
    Depth,
    /// A URL filter of the workflow dropped it.
    Scope,
    /// The site's robots.txt forbids it.
    Robots,
    /// It belongs to a part of the site that seems to have no end.
    Trap,
    /// The execution's time was over (`budgets.time`).
    TimeBudget,
    /// The execution had received its bytes (`budgets.bytes`).
    ByteBudget,
    /// The pages below its path were used up (`budgets.path_prefixes`).
    PathBudget,
    /// `max_pages` was reached.
    Limit,
}

impl SkipReason {
    /// Every reason, for metrics that export each label beforehand.
    pub const ALL: [Self; 8] = [
        Self::Depth,
        Self::Scope,
        Self::Robots,
        Self::Trap,
        Self::TimeBudget,
        Self::ByteBudget,
        Self::PathBudget,
        Self::Limit,
    ];

    /// The name in rows, documents and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Scope => "scope",
            Self::Robots => "robots",
            Self::Trap => "trap",
            Self::TimeBudget => "time_budget",
            Self::ByteBudget => "byte_budget",
            Self::PathBudget => "path_budget",
            Self::Limit => "limit",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// Why one URL was not visited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// For counting.
    pub reason: SkipReason,
    /// One sentence with the particulars.
    pub detail: String,
}

impl Skip {
    /// Makes a skip.
    pub fn new(reason: SkipReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reasons_name_is_read_back() {
        for reason in SkipReason::ALL {
            assert_eq!(SkipReason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(SkipReason::parse("dns"), None);
    }
}
