//! Go (RE2) regular expressions in the syntax of the `regex` crate.
