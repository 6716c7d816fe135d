//! What can be told of an XPath 1.0 expression by its brackets, quotes and ends. Knows nothing of functions and axes.

/// Says what is wrong with an expression.
pub(super) fn check(expression: &str) -> Result<(), String> {
    let mut open = Vec::new();
    let mut outside_strings = String::with_capacity(expression.len());
    let mut chars = expression.chars().enumerate();
    while let Some((at, c)) = chars.next() {
        match c {
            // XPath 1.0 strings have no escapes.
            '"' | '\'' => {
                if !chars.any(|(_, other)| other == c) {
                    return Err(format!("the quote {c} at character {} is never closed", at + 1));
                }
                outside_strings.push('s');
                continue;
            }
            '(' | '[' => open.push((at, c)),
            ')' | ']' => match open.pop() {
                Some((_, '(')) if c == ')' => {}
                Some((_, '[')) if c == ']' => {}
                _ => return Err(format!("the `{c}` at character {} closes nothing", at + 1)),
            },
            _ => {}
        }
        outside_strings.push(c);
    }
    if let Some((at, c)) = open.pop() {
        return Err(format!("the `{c}` at character {} is never closed", at + 1));
    }
    let outside = outside_strings.trim_end();
    if outside.is_empty() {
        return Err("the XPath expression is empty".into());
    }
    if outside.contains(">>") {
        return Err("`>>` chains selectors in another tool; write one XPath expression".into());
    }
    if outside.contains("///") {
        return Err("`///` is no step of XPath; write `//`".into());
    }
    if outside.contains("[]") {
        return Err("`[]` is empty; write a number or a condition into it".into());
    }
    if outside != "/" && outside.ends_with(['/', '|', '@', ':', '=', '<', '>', '+', ',', '$', '!']) {
        return Err("the XPath expression is not finished: something must follow its last character".into());
    }
    Ok(())
}
