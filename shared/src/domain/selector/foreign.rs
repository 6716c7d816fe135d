//! Selectors that other tools understand and browsers do not: Playwright's engines, and pseudo-classes of Playwright,
//! jQuery and Scrapy. Knows what to write instead.

/// Advice, if the selector names an engine (`text=...`) or is quoted text, which Playwright looks up by its wording.
pub(super) fn engine(query: &str) -> Option<String> {
    if query.starts_with(['"', '\'']) {
        return Some(format!("text in quotes is no CSS; {}", by_text()));
    }
    let (name, _) = query.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':'));
    if !is_name {
        return None;
    }
    let advice = match name {
        "text" => by_text(),
        "id" => "write `#the-id`".into(),
        "role" => "write `[role=\"...\"]` or the element's name".into(),
        "data-testid" | "data-test-id" | "data-test" => format!("write `[{name}=\"...\"]`"),
        "nth" => "write `:nth-child(...)`, or XPath `(//...)[n]`".into(),
        _ => "write CSS, or XPath as `xpath=...`".into(),
    };
    Some(format!("`{name}=` names a selector engine that is not supported here; {advice}"))
}

fn by_text() -> String {
    "to find an element by its text write XPath: `//*[contains(text(), \"...\")]`".into()
}

/// Advice, if a pseudo-class or pseudo-element is another tool's.
pub(super) fn pseudo(name: &str, is_element: bool) -> Option<String> {
    if is_element {
        return match name {
            "text" => Some("`::text` is Scrapy's; leave it out, `\"type\": \"text\"` reads the text".into()),
            "attr" => Some(
                "`::attr()` is Scrapy's; leave it out, use `\"type\": \"attr\"` and `\"attribute\"`".into(),
            ),
            _ => None,
        };
    }
    let advice = match name {
        "has-text" | "text" | "text-is" | "text-matches" | "contains" => by_text(),
        "visible" | "hidden" => {
            "it is no CSS; leave it out, `wait_for` with a `state` tells visible elements from hidden ones"
                .into()
        }
        "nth-match" | "eq" | "gt" | "lt" | "first" | "last" | "odd" | "even" => {
            "write `:nth-child(...)`, `:nth-of-type(...)`, or XPath `(//...)[n]`".into()
        }
        "left-of" | "right-of" | "above" | "below" | "near" => {
            "select by structure, not by position on the screen".into()
        }
        "light" | "internal" => "leave it out".into(),
        "button" | "input" | "submit" | "reset" | "file" | "radio" | "checkbox" | "password" | "image" => {
            format!(
                "write `{}`",
                if name == "input" || name == "button" {
                    name.into()
                } else {
                    format!("input[type=\"{name}\"]")
                }
            )
        }
        "selected" => "write `option:checked`".into(),
        "header" => "write `:is(h1, h2, h3, h4, h5, h6)`".into(),
        "parent" => "write `:not(:empty)`".into(),
        _ => return None,
    };
    Some(format!("`:{name}` is not known to browsers; {advice}"))
}
