//! How a tab is told the headers that a session wants. Sends nothing.

/// How a tab sends a session's headers. Chrome sends headers that it is given only while its Network domain is on, which
/// costs an event for each request and response; so what can be sent otherwise is.
#[derive(Debug, Default)]
pub(super) struct SentHeaders<'h> {
    pub(super) user_agent: Option<&'h str>,
    /// The languages alone: Chrome adds their weights.
    pub(super) languages: Option<String>,
    pub(super) rest: serde_json::Map<String, serde_json::Value>,
}

impl<'h> SentHeaders<'h> {
    /// Decides for each header.
    pub(super) fn of(headers: &'h [(String, String)]) -> Self {
        let mut sent = Self::default();
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("user-agent") {
                sent.user_agent = Some(value);
                continue;
            }
            if name.eq_ignore_ascii_case("accept-language") {
                sent.languages = languages_of(value);
                if sent.languages.is_some() {
                    continue;
                }
            }
            sent.rest.insert(name.clone(), value.clone().into());
        }
        sent
    }
}

/// The languages of an `Accept-Language` header, if Chrome gives them the very weights that the header has: 1, 0.9, 0.8
/// and so on.
fn languages_of(header: &str) -> Option<String> {
    let parts: Vec<_> = header.split(',').map(str::trim).collect();
    let languages: Vec<_> =
        parts.iter().map(|part| part.split(';').next().unwrap_or_default().trim()).collect();
    let weighted = languages.iter().enumerate().map(|(place, language)| match place {
        0 => (*language).to_owned(),
        _ => format!("{language};q=0.{}", 10_usize.saturating_sub(place).max(1)),
    });
    let is_plain = |language: &&str| {
        !language.is_empty() && language.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (languages.iter().all(is_plain) && weighted.eq(parts.iter().map(|part| part.replace(' ', ""))))
        .then(|| languages.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_handed_over_where_chrome_weighs_them_the_same() {
        assert_eq!(languages_of("en-US,en;q=0.9, de;q=0.8").as_deref(), Some("en-US,en,de"));
        assert_eq!(languages_of("de").as_deref(), Some("de"));
        for other in ["en,de;q=0.5", "en;q=0.9", "", "*", "en,,de;q=0.8"] {
            assert_eq!(languages_of(other), None, "{other}");
        }
    }
}
