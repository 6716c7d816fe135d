//! Checks selectors as far as that can be told without a browser: what passes here may still be refused by an older
//! Chrome, what fails here fails in every one.

mod css;
mod foreign;
mod token;
mod xpath;

use super::workflow::Selector;

/// The longest selector, in bytes.
pub const MAX_SELECTOR_BYTES: usize = 4096;

/// Reads a selector: CSS, or XPath where it is written `xpath=...`, `//...` or `(//...`.
///
/// # Errors
/// One sentence on what is wrong and, where another tool's syntax was used, what to write instead.
pub fn check(input: &str) -> Result<Selector, String> {
    let trimmed = input.trim();
    if trimmed.is_empty() {
        return Err("the selector is empty".into());
    }
    if trimmed.len() > MAX_SELECTOR_BYTES {
        return Err(format!("the selector is longer than {MAX_SELECTOR_BYTES} bytes"));
    }
    if trimmed.contains('\0') {
        return Err("the selector contains the character U+0000".into());
    }
    if let Some(expression) = trimmed.strip_prefix("xpath=") {
        return xpath::check(expression.trim()).map(|()| Selector::Xpath(expression.trim().into()));
    }
    if trimmed.trim_start_matches('(').starts_with("//") {
        return xpath::check(trimmed).map(|()| Selector::Xpath(trimmed.into()));
    }
    let query = trimmed.strip_prefix("css=").unwrap_or(trimmed).trim();
    if let Some(advice) = foreign::engine(query) {
        return Err(advice);
    }
    css::check(query).map(|()| Selector::Css(query.into()))
}

#[cfg(test)]
mod tests;
