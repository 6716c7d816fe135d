//! `headers`: what is sent with every request. Values may be secrets, so they are never shown: not in messages, not in
//! logs.

use std::fmt;
use std::ops::Deref;

use serde_json::Value;

use super::problem::Report;
use super::reader::{Object, shorten, wrong_type};

const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 8192;

/// Request headers, in the order of their author; only the names are shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Deref for Headers {
    type Target = [(String, String)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(headers: I) -> Self {
        Self(headers.into_iter().collect())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Reads `headers`.
pub(super) fn read_headers(config: &mut Object<'_>, report: &mut Report) -> Headers {
    let at = config.at("headers");
    let Some(value) = config.value("headers") else { return Headers::default() };
    let Value::Object(members) = value else {
        return wrong_type(&at, "an object", value, report).unwrap_or_default();
    };
    if members.len() > MAX_HEADERS {
        report.problem(&at, "out_of_range", format!("there are more than {MAX_HEADERS} headers"));
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in members {
        let at = at.key(name);
        let Value::String(value) = value else {
            wrong_type::<()>(&at, "a string", value, report);
            continue;
        };
        if !is_header_name(name) {
            report.problem(&at, "bad_header", format!("`{}` is no header's name (RFC 9110)", shorten(name)));
        } else if value.len() > MAX_HEADER_BYTES || value.chars().any(|c| c.is_control() && c != '\t') {
            // The value may be a secret: it is not repeated.
            let message = format!(
                "the value has a line break, a control character, or more than {MAX_HEADER_BYTES} bytes"
            );
            report.problem(&at, "bad_header", message);
        } else if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            report.problem(
                &at,
                "bad_header",
                format!("the header `{name}` is given twice, in different case"),
            );
        } else if is_the_browsers_own(name) {
            report.warn(
                &at,
                "setting_not_applied",
                format!("the header `{name}` is the browser's own and is not sent"),
            );
        } else if name.eq_ignore_ascii_case("accept") && value.trim_start().starts_with("text/html") {
            // Chrome sends a header that it is given with pictures and styles too, and only while it reports each
            // request and response, which costs a tenth of the speed.
            let message =
                "`Accept` asks for pages first, as the browser's own does: the browser's own is sent";
            report.warn(&at, "left_to_browser", message);
        } else {
            headers.push((name.clone(), value.clone()));
        }
    }
    Headers(headers)
}

/// A token of RFC 9110, section 5.6.2.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Framing and routing belong to the browser, which answers every request with an error if they are set.
fn is_the_browsers_own(name: &str) -> bool {
    ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown() {
        let headers = Headers::from_iter([("X-Key".to_owned(), "hunter2".to_owned())]);
        let shown = format!("{headers:?}");
        assert!(shown.contains("X-Key") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(headers[0].1, "hunter2");
    }
}
