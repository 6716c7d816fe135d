//! Chrome's `--host-resolver-rules`, obeyed here: behind the guard Chrome may resolve no names, and gets a rule that says so.
//! Rules for addresses or ports mean nothing here: only names are resolved. Port numbers in replacements are not taken.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use async_trait::async_trait;
use crawlify_shared::config::flag_name_and_value;

use super::resolve::{Resolver, SystemResolver};

const FLAG: &str = "host-resolver-rules";
/// The replacement that stands for no address.
const NOT_FOUND: &str = "~NOTFOUND";

/// The system's resolver behind Chrome's rules (`net/base/host_mapping_rules.h`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostRules {
    /// A pattern of names, and what is resolved instead; the first that matches holds.
    maps: Vec<(String, String)>,
    /// Patterns of names to which no rule applies.
    exclusions: Vec<String>,
}

impl HostRules {
    /// Reads the rules among Chrome's flags; the last such flag holds, as for Chrome. What is no rule is left out, with a warning.
    pub(super) fn of_flags(flags: &[String]) -> Self {
        let mut given = flags.iter().rev().map(|flag| flag_name_and_value(flag));
        let text = given.find(|(name, _)| *name == FLAG).map_or("", |(_, value)| value);
        let mut rules = Self::default();
        for rule in text.trim_matches('"').split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
            let words: Vec<_> = rule.split_whitespace().collect();
            match words[..] {
                // No name has a colon, only a port and an address do.
                [_, pattern, ..] if pattern.contains(':') => {
                    tracing::warn!(rule, "names are resolved whatever the port: this rule never holds");
                }
                [verb, pattern, replacement] if verb.eq_ignore_ascii_case("MAP") => {
                    rules.maps.push((pattern.to_lowercase(), replacement.to_owned()));
                }
                [verb, pattern] if verb.eq_ignore_ascii_case("EXCLUDE") => {
                    rules.exclusions.push(pattern.to_lowercase());
                }
                _ => tracing::warn!(rule, "this is no rule for resolving names"),
            }
        }
        rules
    }

    /// What is resolved for a name; nothing for one that is not to be found.
    fn instead_of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        if self.exclusions.iter().any(|pattern| matches(pattern, name)) {
            return Some(name);
        }
        match self.maps.iter().find(|(pattern, _)| matches(pattern, name)) {
            Some((_, replacement)) if replacement == NOT_FOUND => None,
            Some((_, replacement)) => Some(replacement),
            None => Some(name),
        }
    }
}

#[async_trait]
impl Resolver for HostRules {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let name = self.instead_of(name).ok_or(ErrorKind::NotFound)?;
        SystemResolver.resolve(name).await
    }
}

/// Whether a name is of a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    // Names are ASCII here, as URLs have them.
    (0..=rest.len()).any(|from| rest.get(from..).is_some_and(|rest| matches(after, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_resolved_as_chromes_rules_say() {
        let flags = [
            "--lang=de".to_owned(),
            "--host-resolver-rules=MAP *.shop.test 127.0.0.7, MAP * ~NOTFOUND , exclude localhost, what"
                .to_owned(),
        ];
        let rules = HostRules::of_flags(&flags);
        assert_eq!(rules.resolve("a.shop.test").await.unwrap(), [IpAddr::from([127, 0, 0, 7])]);
        assert_eq!(rules.resolve("shop.test").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(rules.resolve("localhost").await.is_ok());
        assert_eq!(HostRules::of_flags(&flags[..1]), HostRules::default());
        assert_eq!(HostRules::default().instead_of("shop.test"), Some("shop.test"));
    }

    #[test]
    fn the_flag_is_read_however_many_dashes_it_has_as_the_browsers_own_are() {
        let two = HostRules::of_flags(&["--host-resolver-rules=MAP a.test 127.0.0.7".to_owned()]);
        assert_eq!(two.instead_of("a.test"), Some("127.0.0.7"));
        for dashes in ["", "-", "----"] {
            let flag = format!("{dashes}host-resolver-rules=MAP a.test 127.0.0.7");
            assert_eq!(HostRules::of_flags(&[flag]), two, "{dashes}");
        }
        // The last one holds, though it has no rules.
        let flags = ["--host-resolver-rules=MAP a.test 127.0.0.7", "host-resolver-rules"];
        assert_eq!(HostRules::of_flags(&flags.map(str::to_owned)), HostRules::default());
    }

    #[test]
    fn a_pattern_with_a_port_is_no_rule_here() {
        let flag = "--host-resolver-rules=MAP a.test:443 127.0.0.7, EXCLUDE *:80, MAP b.test 127.0.0.8";
        let without = "--host-resolver-rules=MAP b.test 127.0.0.8";
        let [rules, others] = [flag, without].map(|flag| HostRules::of_flags(&[flag.to_owned()]));
        assert_eq!(rules, others);
    }

    #[test]
    fn stars_stand_for_any_characters() {
        assert!(matches("*", "a.test") && matches("a*t", "a.test") && matches("*.b.*", "a.b.c"));
        assert!(!matches("*.test", "test") && !matches("a", "ab") && !matches("*a", "ab"));
    }
}
